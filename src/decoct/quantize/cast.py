"""16-bit floats: values, biases, statistics and codebooks rounded to half precision.

IEEE 754 half precision has 10 bits of mantissa and a range of 65504; bfloat16 has 7 and the range of float32. Rounding
is to nearest, even on ties; beyond the range the largest finite value is taken. The promise is kept through later
training, with the gradient passed straight through the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from decoct import plan
from decoct.coding import chosen
from decoct.plan import FLOAT16, Draft, Edit
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

    def check(self, draft: Draft) -> None:
        """RecipeError for a glob that matches no floating tensor."""
        self._chosen(draft)

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """A Cast edit for every floating tensor."""
        return [plan.Cast(name, self.dtype) for name in self._chosen(draft)]

    def _chosen(self, draft: Draft) -> list[str]:
        tensors = draft.tensors()
        return chosen([name for name in tensors if tensors[name].is_floating_point()], self.tensors)
