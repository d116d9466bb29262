"""Attention, empty slices and functional layers: what models in the wild do, in small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoct.apply import apply
from decoct.graph import groups
from decoct.selfcheck import verified


class Attention(nn.Module):
    """4 heads of 8; `bias`: learnt, by head; `eager`: by matmul over batch and heads; `head_size` by number."""

    def __init__(self, bias: bool = False, eager: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.bias = nn.Parameter(torch.randn(1, 4, 6, 6)) if bias else None
        self.head_size, self.eager = 8, eager

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.head_size).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.eager:
            y = (q @ k.transpose(-1, -2) * 0.35).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if self.bias is None else self.bias * 1.5)
        return self.o(y.transpose(1, 2).flatten(2))


def test_a_bias_by_head_goes_with_the_heads() -> None:
    torch.manual_seed(0)
    (group,) = groups(Attention(bias=True), torch.randn(2, 6, 32)).groups
    assert group.size == 4
    assert ("bias", 1) in {(each.tensor, each.dim) for each in group.members}


def test_weights_near_zero_hide_no_wrong_number() -> None:
    """batch * heads = 8 = head_size: halving it too parts the heads otherwise, unseen in uniform attention."""
    torch.manual_seed(0)
    model = Attention(eager=True)
    for each in (model.q, model.k):
        each.weight.data *= 1e-3
        each.bias.data *= 1e-3
    x = torch.randn(2, 6, 32)
    graph = groups(model, x)
    edits, refused = verified(model, x, graph, {graph.groups[0].name: [0, 1]})
    assert not refused
    assert apply(model, edits).head_size == 8


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).view(*x.shape[:2], 4, 2)
        return self.b(torch.cat([y[..., :2] * 2, y[..., 2:]], -1).flatten(2))


def test_an_empty_slice_is_no_obstacle() -> None:
    graph = groups(Sliced(), torch.randn(2, 3, 4))
    named = {member.tensor for group in graph.groups for member in group.members} | {
        each.tensor for each in graph.frozen
    }
    assert {"a.weight", "b.weight"} <= named


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.deep, self.b = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(F.conv1d(y, self.deep.weight, self.deep.bias, groups=y.shape[1]))


def test_groups_given_to_a_function_are_no_attribute() -> None:
    model, x = Functional(), torch.randn(2, 3, 9)
    graph = groups(model, x)
    assert not verified(model, x, graph, {graph.groups[0].name: [0, 3]})[1]
