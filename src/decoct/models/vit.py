"""A small vision transformer for 32x32 images.

Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai, Thomas Unterthiner, Mostafa
Dehghani, Matthias Minderer, Georg Heigold, Sylvain Gelly, Jakob Uszkoreit, Neil Houlsby: An Image is Worth 16x16 Words:
Transformers for Image Recognition at Scale. ICLR 2021, arXiv 2010.11929. Patches become tokens by one linear map, a
learned token is put before them and read at the end, positions are learned; blocks normalise before they work.

Differs: 4 blocks of 96 features on 4x4 patches; the paper's least has 12 of 768 on 32x32. No dropout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vit_small(classes: int = 10, patch: int = 4, dim: int = 96, depth: int = 4, heads: int = 4) -> ViT:
    """A vision transformer: 459,562 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    patch: pixels a side of a patch. dim: features of a token. depth: blocks. heads: of the attention in each.
    """
    return ViT(classes, patch, dim, depth, heads)


class ViT(nn.Module):
    """Tokens of patches, blocks of attention and dense layers, and a linear map of the first token."""

    def __init__(self, classes: int, patch: int, dim: int, depth: int, heads: int, size: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (batch, patches, dim)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1)  # (batch, patches + 1, dim)
        x = self.blocks(x + self.positions)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with four times the features between."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Self-attention of `heads` heads: softmax(q k^T / sqrt(head_dim)) v in each, side by side, and a linear map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        inner = heads * self.head_dim
        self.query, self.key, self.value = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._part(self.query(x)), self._part(self.key(x)), self._part(self.value(x))
        y = F.scaled_dot_product_attention(q, k, v)  # (batch, heads, tokens, head_dim)
        return self.out(y.transpose(1, 2).flatten(2))

    def _part(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)  # (batch, heads, tokens, head_dim)
