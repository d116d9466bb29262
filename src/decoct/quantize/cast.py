"""16-bit floats: values, biases, statistics and codebooks rounded to half precision.

IEEE 754 half precision has 10 bits of mantissa and a range of 65504; bfloat16 has 7 and the range of float32. Rounding
is to nearest, even on ties; beyond the range the largest finite value is taken. The promise is kept through later
training, with the gradient passed straight through the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from decoct import plan
from decoct.plan import FLOAT16, Draft, Edit, select
from decoct.task import Task
from decoct.train.loop import check_choice


@dataclass(frozen=True)
class Cast:
    """Round floating tensors, and the codebooks of shared ones, to a 16-bit float.

    dtype: float16 or bfloat16.
    tensors: glob of the tensors; several are joined by commas.
    """

    dtype: str = "float16"
    tensors: str = "*"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, FLOAT16)

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """A Cast edit for every floating tensor."""
        floats = {name: tensor for name, tensor in draft.tensors().items() if tensor.is_floating_point()}
        return [plan.Cast(name, self.dtype) for name in select(floats, self.tensors)]
