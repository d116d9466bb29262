"""Write the golden files: what the encoder must give, byte for byte, as long as FORMAT_VERSION is what it is.

    python tests/golden/make.py

Run it only together with a change of FORMAT_VERSION (docs/format.md): any other changed byte is a mistake.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from decoct.coding import Stored
from decoct.file import Entry, write

FOLDER = Path(__file__).parent
NUMBERS = np.array([0.5, -1.25, 3.0, 1e-3, -0.0, 2.0, 7.0, -8.5, 0.1, 65504.0], np.float32)
SPARSE = np.arange(0, 300, 7)
TABLE = np.array([-1.5, -0.25, 0.75, 2.0], np.float32)

ENTRIES = [
    Entry("plain", Stored((2, 5), "float32", "plain", NUMBERS)),
    Entry("half", Stored((10,), "float32", "plain", NUMBERS.astype(np.float16))),
    Entry("brain", Stored((3,), "bfloat16", "plain", np.array([0x3F80, 0xBF80, 0x7F80], np.uint16))),
    Entry("shared", Stored((10, 30), "float32", "shared", (SPARSE % 4).astype(np.uint8), SPARSE, TABLE)),
    Entry("huffman", Stored((10, 30), "float32", "shared", (SPARSE % 4).astype(np.uint8), SPARSE, TABLE), "huffman"),
    Entry("grid", Stored((2, 3), "float32", "grid", np.array([-7, 0, 7, 3, -3, 1], np.int8), None, TABLE[2:], None, 0)),
    Entry("integers", Stored((4,), "int64", "plain", np.array([-1, 0, 2**40, 5]))),
    Entry("flags", Stored((9,), "bool", "plain", np.arange(9) % 2 == 0)),
    Entry("eight", Stored((4,), "uint8", "plain", np.array([0, 1, 126, 255], np.uint8)), dtype="float8_e4m3fn"),
    Entry("empty", Stored((0, 4), "float32", "plain", np.zeros(0, np.float32))),
]
META = {
    "decoct": "0.1.0",
    "inputs": [{"name": "input", "shape": [None, 5], "dtype": "float32"}],
    "normalisation": {"mean": [0.5], "std": [0.25]},
    "labels": ["cat", "dog"],
    "edits": [],
}
GRAPH = b"not parsed here " * 20
ALIASES = {"tied": "plain"}


def main() -> None:
    """Write both profiles."""
    write(FOLDER / "bare.dct", ENTRIES, META, bare=True)
    write(FOLDER / "named.dct", ENTRIES, META, GRAPH, aliases=ALIASES)


if __name__ == "__main__":
    main()
