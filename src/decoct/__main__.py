"""``python -m decoct``, and so ``accelerate launch -m decoct``."""

from decoct.cli import main

main()
