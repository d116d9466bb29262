"""Weight sharing by k-means.

Song Han, Huizi Mao, William J. Dally: Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
Quantization and Huffman Coding. ICLR 2016, arXiv 1510.00149.

The non-zero weights of each tensor, never across tensors, are clustered into k = 2^b values that minimise the
within-cluster sum of squares; each weight then is a code of b bits into the codebook. Retraining moves the codebook
with the codes frozen; the gradient of an entry is the sum over the weights that use it:

    dL/dC_k = sum_ij dL/dW_ij [I_ij = k]          (their equation 3)

n weights of B bits thus take n b + k B bits (their equation 1 is the rate n B / (n b + k B)).

Differs: besides the paper's initialisations (linear, density, random) the clustering may be exact or nearly so; a
centroid that lands on zero is merged into the zeros; codebook entries that coincide become one.

Result: lenet-300-100 and lenet-5 on MNIST, `decoct compress recipes/lenet-5.toml`; see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoct.apply import between, extend
from decoct.errors import RecipeError
from decoct.events import emit
from decoct.method import per_tensor
from decoct.plan import ZERO_CODE, Draft, Edit, Share
from decoct.quantize.kmeans1d import kmeans1d
from decoct.task import Task
from decoct.train.finetune import Finetune
from decoct.train.loop import check_choice, train

INITS = ("linear", "density", "random", "sketch", "exact")
NEAR_ZERO = 1e-12
MAX_BITS = 12


@dataclass(frozen=True)
class KMeans:
    """Let the weights of each tensor share 2^bits values.

    bits: width of a code, 1 to 12; also by glob, as {"conv*" = 8, "*" = 5}.
    tensors: glob of the tensors to share; several are joined by commas.
    init: linear (the paper's best), density, random; sketch (near the optimum, quick at any size) or exact (the
        optimum, by dynamic programming).
    seed: of the random initialisation.
    retrain: the training of the centroids afterwards, codes frozen; None for none.
    """

    bits: int | Mapping[str, int] = 5
    tensors: str = "*"
    init: str = "linear"
    seed: int = 0
    retrain: Finetune | None = None

    def __post_init__(self) -> None:
        check_choice("init", self.init, INITS)
        widths = self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]
        if not all(1 <= bits <= MAX_BITS for bits in widths):
            raise RecipeError(f"bits is 1 to {MAX_BITS}, not {self.bits}")

    def check(self, draft: Draft) -> None:
        """RecipeError for a glob that matches no tensor, or a tensor that no glob matches."""
        self._widths(draft)

    def _widths(self, draft: Draft) -> dict[str, int]:
        return per_tensor(self.bits, draft.weights(self.tensors), "bits")

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Share edits for every tensor, their codebooks trained if `retrain` is given."""
        weights = draft.weights(self.tensors)
        widths = self._widths(draft)
        shares: list[Edit] = []
        for name, weight in weights.items():
            shares.append(share(name, weight, 2 ** widths[name], self.init, self.seed))
            emit("progress", what="k-means", done=len(shares), total=len(weights))
        if self.retrain is None:
            return shares
        now = extend(draft, shares)
        return between(draft, extend(now, train(now, task, **vars(self.retrain))))


def share(name: str, weight: Tensor, clusters: int, init: str = "linear", seed: int = 0) -> Share:
    """Cluster the non-zero entries of `weight`; zeros keep the code -1 and get no centroid."""
    values = weight.detach().cpu().numpy().ravel()
    codes = np.full(values.shape, ZERO_CODE, np.int16)
    kept = np.flatnonzero(values)
    if not kept.size:
        return Share(name, torch.from_numpy(codes).view(weight.shape), weight.new_zeros(1))
    found = kmeans1d(values[kept], clusters, init=init, seed=seed)
    codebook, merged = np.unique(found.centroids.astype(values.dtype), return_inverse=True)
    codes[kept] = merged[found.codes]
    zero = np.flatnonzero(np.abs(codebook) <= NEAR_ZERO * np.abs(codebook).max())
    if zero.size and codebook.size > 1:
        codes[codes == zero[0]] = ZERO_CODE
        codes[codes > zero[0]] -= 1
        codebook = np.delete(codebook, zero[0])
    return Share(name, torch.from_numpy(codes).view(weight.shape), torch.from_numpy(codebook).to(weight))
