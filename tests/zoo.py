"""Small nets, one for each way in which channels are tied together that pruners get wrong, crash on or refuse.

Each net is a function, its forward, under a `case` that tells the trap, the layers, and the truth to judge by:

- most nets have channels *planted*: zeroed by hand, with no analysis of the graph, such that to remove them, and what
  is tied to them, leaves the output as it is;
- the others have `refused`: a word that the reason for keeping their channels must contain (in any letter case).

Widths are small, and as many as there are pixels along a side (8), tokens (6) or entries of the batch (2), so that no
dimension can be recognised by its size. What torch starts as a constant (norms, some biases, gammas) is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

Planted = tuple[str, int, list[int]]
Layers = dict[str, nn.Module | Tensor]


@dataclass(frozen=True)
class Case:
    """A net and the truth about it; exactly one of `plant` and `refused` is there.

    trap: what goes wrong in others.
    build: the net in eval mode, always the same one.
    example: one input as the net is called with it: a tensor, a tuple, or a dict.
    plant: zeroes channels in place, and what is tied to them; names them: tensor, its dimension, positions.
    refused: a word of the reason why no channel of conv1 can go.
    """

    name: str
    trap: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    plant: Callable[[nn.Module], Planted] | None
    refused: str = ""


CASES: list[Case] = []


class Net(nn.Module):
    """Layers, parameters and buffers by name; a case adds the forward."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, nn.Module | nn.Parameter):
                setattr(self, name, layer)
            else:
                self.register_buffer(name, layer)


def case(
    trap: str,
    layers: Callable[[], Layers],
    plant: Callable[[nn.Module], Planted] | None = None,
    example: Callable[[], Any] | None = None,
    refused: str = "",
) -> Callable[[Callable[..., Any]], type[Net]]:
    """Make a case, and a class of nets, of a forward, under its name."""

    def add(forward: Callable[..., Any]) -> type[Net]:
        name = forward.__name__
        kind = type(name, (Net,), {"forward": forward, "__module__": __name__})
        build, make = partial(_build, kind, layers), partial(_seeded, example or image)
        CASES.append(Case(name, trap, build, make, plant, refused))
        return kind

    return add


def _build(kind: type[Net], layers: Callable[[], Layers]) -> nn.Module:
    return _seeded(lambda: _rough(kind(layers())).eval())


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _rough(model: nn.Module) -> nn.Module:
    """Replace constants by random numbers: zeros by some of either sign, others by some near them."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
            value = tensor.data.flatten()[0].item()
            tensor.data.copy_(value * (0.5 + torch.rand(tensor.shape)) if value else torch.randn(tensor.shape) / 2)
    return model


# What is zeroed, and what it is called. "conv" stands for all parameters of a layer, "conv.weight" for one tensor;
# "@1" says along which dimension, else it is the first.


def dead(where: str, channels: list[int], *zeroed: str | tuple[str, list[int]]) -> Callable[[nn.Module], Planted]:
    """A plant: the channels of tensor `where`, dead once `zeroed` is zero: at the same positions, or at given ones."""

    def plant(model: nn.Module) -> Planted:
        for spot in zeroed:
            _zero(model, *(spot if isinstance(spot, tuple) else (spot, channels)))
        name, dim = _parse(where)
        return name, dim, channels

    return plant


def _zero(model: nn.Module, spot: str, positions: list[int]) -> None:
    name, dim = _parse(spot)
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    with torch.no_grad():
        for tensor in [value] if isinstance(value, Tensor) else value.parameters():
            tensor.index_fill_(dim, torch.tensor(positions), 0.0)


def _parse(spot: str) -> tuple[str, int]:
    name, _, dim = spot.partition("@")
    return name, int(dim or 0)


def gates(count: int, units: list[int], width: int = 8) -> list[int]:
    """The rows of hidden units in each gate of a recurrent layer's weights."""
    return [gate * width + unit for gate in range(count) for unit in units]


def spread(channels: list[int], each: int) -> list[int]:
    """The positions of channels of which each has become `each` neighbours."""
    return [channel * each + place for channel in channels for place in range(each)]


def both(channels: list[int], width: int = 8) -> list[int]:
    """The positions of channels in either half."""
    return channels + [width + channel for channel in channels]


SOME = [0, 3, 4, 6]  # of 8, with no pattern
SOME12 = [0, 2, 3, 7, 8, 11]
ODD = [1, 3, 5, 7]  # the same positions in halves and in quarters
HEADS = [2, 3, 4, 5]  # heads 1 and 2 of four heads of 2


# Layers and inputs


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def bn(
    channels: int, kind: type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d] = nn.BatchNorm2d, **options: Any
) -> nn.Module:
    """A batch norm with statistics of the size that a fresh convolution has, so that what follows it is alive."""
    norm = kind(channels, **options)
    nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.uniform_(norm.running_var, 0.05, 0.15)
    return norm


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def around(outputs: int = 8, inputs: int = 8, **between: nn.Module | Tensor) -> Layers:
    """A convolution before and one after what the case is about."""
    return {"conv1": conv(3, outputs), **between, "conv2": conv(inputs, 4)}


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def two_images() -> tuple[Tensor, Tensor]:
    return image(), image()


def vector() -> Tensor:
    return torch.randn(2, 5)


def two_vectors() -> tuple[Tensor, Tensor]:
    return vector(), vector()


def sequence() -> Tensor:
    return torch.randn(2, 6, 5)


def states() -> Tensor:
    return torch.randn(2, 6, 8)


def words() -> Tensor:
    return torch.randint(0, 11, (2, 6))


# Chains: one layer feeds the next


@case(
    "a removed filter leaves its BatchNorm's beta behind, and the masked net is another one (nni#2130)",
    lambda: around(bn1=bn(8)),
    dead("conv1.weight", SOME, "conv1", "bn1"),
)
def conv_bn(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.bn1(self.conv1(x)).relu())


@case("a filter goes and its bias stays", around, dead("conv1.weight", SOME, "conv1"))
def conv_bias(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu())


@case(
    "a constant added after the layer keeps a zeroed channel alive, so a mask is not a removal",
    lambda: {"conv1": conv(3, 8, bias=False), "conv2": conv(8, 4)},
    dead("conv1.weight", SOME, "conv2.weight@1"),
)
def constant_shift(self: Net, x: Tensor) -> Tensor:
    return self.conv2((self.conv1(x) + 0.5).relu())


@case(
    "a BatchNorm without weight and bias: only its statistics carry the channels",
    lambda: around(bn1=bn(8, affine=False)),
    dead("conv1.weight", SOME, "conv2.weight@1"),
)
def bn_no_affine(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.bn1(self.conv1(x)).relu())


@case(
    "PReLU has a slope for each channel",
    lambda: around(act=nn.PReLU(8)),
    dead("conv1.weight", SOME, "conv1"),
)
def prelu(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.act(self.conv1(x)))


@case(
    "in-place operations: the tensor before and the one after are the same",
    lambda: around(bn1=bn(8)),
    dead("conv1.weight", SOME, "conv1", "bn1"),
)
def in_place(self: Net, x: Tensor) -> Tensor:
    x = self.bn1(self.conv1(x))
    x += x.mean((2, 3), keepdim=True).mul_(0.5)
    x.mul_(2).relu_()
    return self.conv2(x)


@case(
    "dropout, also of whole channels",
    lambda: around(drop=nn.Dropout2d(0.5)),
    dead("conv1.weight", SOME, "conv1"),
)
def dropout(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.dropout(self.drop(self.conv1(x)), 0.5, self.training))


@case("interpolation and pooling between layers", around, dead("conv1.weight", SOME, "conv1"))
def upsample(self: Net, x: Tensor) -> Tensor:
    x = F.max_pool2d(self.conv1(x).relu(), 2)
    return self.conv2(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


@case(
    "layers called as functions, with bare parameters: there is no module to replace",
    lambda: {"kernel": weights(8, 3, 3, 3), "bias": weights(8), "mix": weights(8, 4)},
    dead("kernel", SOME, "kernel", "bias"),
)
def functional(self: Net, x: Tensor) -> Tensor:
    return F.conv2d(x, self.kernel, self.bias, padding=1).relu().mean((2, 3)) @ self.mix


@case(
    "a parameter that no output depends on",
    lambda: around(spare=weights(8), unused=conv(8, 8)),
    dead("conv1.weight", SOME, "conv1"),
)
def unused(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu())


@case(
    "pooled to one pixel, then a Linear",
    lambda: {"conv1": conv(3, 8), "bn1": bn(8), "fc": nn.Linear(8, 5)},
    dead("conv1.weight", SOME, "conv1", "bn1"),
)
def pool_flatten(self: Net, x: Tensor) -> Tensor:
    return self.fc(F.adaptive_avg_pool2d(self.bn1(self.conv1(x)).relu(), 1).flatten(1))


@case(
    "the largest over all pixels, in two ways",
    lambda: {"conv1": conv(3, 8), "fc": nn.Linear(16, 5)},
    dead("conv1.weight", SOME, "conv1"),
)
def global_max_pool(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    return self.fc(torch.cat([F.adaptive_max_pool2d(x, 1).flatten(1), x.amax((2, 3))], 1))


@case(
    "flattened with its pixels: a channel is a run of the Linear's columns",
    lambda: {"conv1": conv(3, 8, stride=2), "fc": nn.Linear(128, 5)},
    dead("conv1.weight", SOME, "conv1"),
)
def flatten_pixels(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.conv1(x).relu().flatten(1))


@case(
    "Linear layers, with a norm of vectors",
    lambda: {"fc1": nn.Linear(5, 8), "norm": bn(8, nn.BatchNorm1d), "fc2": nn.Linear(8, 4)},
    dead("fc1.weight", SOME, "fc1", "norm"),
    vector,
)
def mlp(self: Net, x: Tensor) -> Tensor:
    return self.fc2(self.norm(self.fc1(x)).tanh())


@case(
    "a Linear on each token: channels are the last dimension",
    lambda: {"fc1": nn.Linear(5, 6), "fc2": nn.Linear(6, 6)},
    dead("fc1.weight", [0, 2, 3], "fc1"),
    sequence,
)
def linear_tokens(self: Net, x: Tensor) -> Tensor:
    return self.fc2(F.gelu(self.fc1(x)))


@case(
    "one spatial dimension",
    lambda: {"conv1": nn.Conv1d(6, 8, 3), "norm": bn(8, nn.BatchNorm1d), "conv2": nn.Conv1d(8, 4, 1)},
    dead("conv1.weight", SOME, "conv1", "norm"),
    sequence,
)
def conv1d(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x)).relu())


@case(
    "three spatial dimensions",
    lambda: {"conv1": nn.Conv3d(3, 8, 3, padding=1), "norm": bn(8, nn.BatchNorm3d), "conv2": nn.Conv3d(8, 4, 2)},
    dead("conv1.weight", SOME, "conv1", "norm"),
    lambda: torch.randn(2, 3, 4, 4, 4),
)
def conv3d(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x)).relu())


@case(
    "a transposed convolution has its output channels in the second dimension",
    lambda: {"conv1": conv(3, 8), "up": nn.ConvTranspose2d(8, 6, 2, stride=2), "conv2": conv(6, 4)},
    dead("up.weight@1", [0, 2, 5], "up.weight@1", "up.bias"),
)
def conv_transpose(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.up(self.conv1(x)).relu())


@case(
    "a softmax over pixels leaves channels apart, but makes a zeroed one uniform",
    around,
    dead("conv1.weight", SOME, "conv2.weight@1"),
)
def softmax_over_pixels(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    return self.conv2(x.flatten(2).softmax(-1).view_as(x))


# Sums: what is added has its channels in common


@case(
    "a residual sum ties the stem to the block's last layer",
    lambda: around(bn1=bn(8), inner=conv(8, 8), bn2=bn(8), outer=conv(8, 8), bn3=bn(8)),
    dead("conv1.weight", SOME, "conv1", "bn1", "outer", "bn3"),
)
def residual(self: Net, x: Tensor) -> Tensor:
    x = self.bn1(self.conv1(x)).relu()
    return self.conv2((x + self.bn3(self.outer(self.bn2(self.inner(x)).relu()))).relu())


@case(
    "a projected shortcut ties two convolutions to each other, not to the stem",
    lambda: around(outer=conv(8, 8, stride=2), bn1=bn(8), short=conv(8, 8, 1, stride=2), bn2=bn(8)),
    dead("outer.weight", SOME, "outer", "bn1", "short", "bn2"),
)
def residual_projection(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(F.gelu(self.bn1(self.outer(x)) + self.bn2(self.short(x))))


def option_a() -> Layers:
    return {"conv1": conv(3, 4), "outer": conv(4, 8, stride=2), "bn1": bn(8), "conv2": conv(8, 4)}


@case(
    "option A shortcut, channels of the stem: channel c meets the block's channel c + 2",
    option_a,
    dead("conv1.weight", [0, 3], "conv1", ("outer", [2, 5]), ("bn1", [2, 5])),
)
def padded_shortcut(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2((self.bn1(self.outer(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))).relu())


@case(
    "option A shortcut, channels that meet its padding: how much is padded must change",
    option_a,
    dead("outer.weight", [0, 1, 7], "outer", "bn1"),
)
def shortcut_padding(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2((self.bn1(self.outer(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))).relu())


@case(
    "a shortcut from the image: its channels are the user's",
    lambda: {"conv1": conv(3, 3), "conv2": conv(3, 4)},
    refused="input",
)
def residual_on_input(self: Net, x: Tensor) -> Tensor:
    return self.conv2(x + self.conv1(x))


@case(
    "pre-activation: the norm stands after the sum, one norm for each reader",
    lambda: around(bn1=bn(8), outer=conv(8, 8), bn2=bn(8)),
    dead("conv1.weight", SOME, "conv1", "bn1", "outer", "bn2"),
)
def preactivation(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    x = x + self.outer(self.bn1(x).relu())
    return self.conv2(self.bn2(x).relu())


@case(
    "branches stacked along a new dimension and summed",
    lambda: {"a": conv(3, 8), "b": conv(3, 8), "conv2": conv(8, 4)},
    dead("a.weight", SOME, "a", "b"),
)
def stack_sum(self: Net, x: Tensor) -> Tensor:
    return self.conv2(torch.stack([self.a(x), self.b(x)]).sum(0).relu())


@case(
    "branches stacked behind the channels and averaged",
    lambda: {"a": conv(3, 8), "b": conv(3, 8), "conv2": conv(8, 4)},
    dead("b.weight", SOME, "a", "b"),
)
def stack_mean(self: Net, x: Tensor) -> Tensor:
    return self.conv2(torch.stack([self.a(x), self.b(x)], 2).mean(2).relu())


@case(
    "one channel added to all: the sum ties nothing, and no zeroed channel stays zero",
    lambda: around(one=conv(3, 1)),
    dead("conv1.weight", SOME, "conv2.weight@1"),
)
def broadcast_add(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x) + self.one(x))


@case(
    "a parameter added at each position has the channels too",
    lambda: around(position=weights(1, 8, 8, 8)),
    dead("conv1.weight", SOME, "conv1", "position@1"),
)
def positional(self: Net, x: Tensor) -> Tensor:
    return self.conv2((self.conv1(x) + self.position).relu())


@case(
    "a sum over channels loses nothing when zeroed ones go",
    lambda: around(inputs=1),
    dead("conv1.weight", SOME, "conv1"),
)
def sum_over_channels(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu().sum(1, keepdim=True))


# Constants as wide as the channels


@case(
    "a buffer as wide as the channels",
    lambda: around(scale=torch.ones(1, 8, 1, 1)),
    dead("conv1.weight", SOME, "conv1"),
)
def buffer_scale(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu() * self.scale)


@case(
    "a boolean buffer chooses by channel",
    lambda: around(mask=torch.tensor([True, False, False, True, True, False, True, False]).view(8, 1, 1)),
    dead("conv1.weight", SOME, "conv1"),
)
def where_mask(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    return self.conv2(torch.where(x > 0.1, torch.where(self.mask, x, 2 * x), -0.5 * x))


@case(
    "a constant as wide as the channels, made while it runs, with the width written out",
    around,
    dead("conv1.weight", SOME, "conv1"),
)
def constant_made(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu() * torch.linspace(0.5, 1.5, 8).view(1, -1, 1, 1))


@case(
    "constants made from the width: run again on fewer channels they are silently others",
    around,
    dead("conv1.weight", SOME, "conv1"),
)
def constant_from_width(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    width = x.shape[1]
    return self.conv2(x * torch.arange(1, width + 1).view(-1, 1, 1) / math.sqrt(width))


# Joining, splitting and picking channels


@case(
    "a dense block: each layer reads all before it, at shifted columns",
    lambda: {"conv1": conv(3, 8), "a": conv(8, 6), "b": conv(14, 6), "conv2": conv(20, 4)},
    dead("a.weight", [1, 2, 4], "a"),
)
def dense_block(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    x = torch.cat([x, self.a(x).relu()], 1)
    return self.conv2(torch.cat([x, self.b(x).relu()], 1))


@case(
    "a dense block's transition: the norm and the compression stand on what was joined",
    lambda: {
        **around(bn1=bn(8), inner=conv(8, 6, bias=False), bn2=bn(14), shrink=conv(14, 8, 1, bias=False)),
        "bn3": bn(8),
    },
    dead("inner.weight", [0, 1, 4], "inner", ("bn2", [8, 9, 12])),
)
def dense_transition(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    x = torch.cat([x, self.inner(self.bn1(x).relu())], 1)
    x = F.avg_pool2d(self.shrink(self.bn2(x).relu()), 2)
    return self.conv2(self.bn3(x).relu())


@case(
    "C2f: chunked, refined and joined again; others want the block rewritten (Torch-Pruning#147)",
    lambda: around(inputs=12, bn1=bn(8), refine=conv(4, 4)),
    dead("conv1.weight", ODD, "conv1", "bn1", ("refine", [1, 3])),
)
def chunk_concat(self: Net, x: Tensor) -> Tensor:
    a, b = self.bn1(self.conv1(x)).relu().chunk(2, 1)
    return self.conv2(torch.cat([a, b, b + self.refine(b)], 1))


@case(
    "chunks of 3, 3 and 2 channels: their sizes depend on the width",
    lambda: {"conv1": conv(3, 8), "a": conv(3, 4), "b": conv(3, 4), "c": conv(2, 4)},
    dead("conv1.weight", [0, 3, 6], "conv1"),
)
def chunk_uneven(self: Net, x: Tensor) -> Tensor:
    a, b, c = self.conv1(x).relu().chunk(3, 1)
    return self.a(a) + self.b(b) + self.c(c)


@case(
    "a split at sizes written out",
    lambda: {"conv1": conv(3, 8), "a": conv(3, 4), "b": conv(5, 4)},
    dead("conv1.weight", SOME, "conv1"),
)
def split_uneven(self: Net, x: Tensor) -> Tensor:
    a, b = self.conv1(x).relu().split([3, 5], 1)
    return self.a(a) + self.b(b)


@case(
    "the first channels and the rest, by slices with the border written out",
    lambda: {"conv1": conv(3, 8), "a": conv(4, 4), "b": conv(4, 4)},
    dead("conv1.weight", [0, 1, 3, 6], "conv1"),
)
def slice_front(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.a(x[:, :4]) + self.b(x[:, 4:])


@case(
    "every second channel: Torch-Pruning leaves a model that does not run",
    lambda: {"conv1": conv(3, 8), "a": conv(4, 4), "b": conv(4, 4)},
    dead("conv1.weight", [2, 3, 6, 7], "conv1"),
)
def slice_strided(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.a(x[:, 0::2]) + self.b(x[:, 1::2])


@case(
    "narrow, beside a reader of all: start and length must both change",
    lambda: around(middle=conv(4, 4)),
    dead("conv1.weight", SOME, "conv1"),
)
def narrow(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(x) + self.middle(x.narrow(1, 2, 4))


@case(
    "channels permuted by a buffer: the indices in it must be counted anew",
    lambda: around(order=torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])),
    dead("conv1.weight", SOME, "conv1"),
)
def index_select(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu().index_select(1, self.order))


@case("channels picked by a list, one of them twice", around, dead("conv1.weight", SOME, "conv1"))
def fancy_index(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu()[:, [3, 0, 7, 5, 1, 6, 2, 3]])


@case("channel c meets column 7 - c", around, dead("conv1.weight", SOME, "conv1"))
def flip(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu().flip(1))


@case(
    "the sum of a tensor and its mirror ties channel c to 7 - c of the same layer",
    around,
    dead("conv1.weight", [0, 2, 5, 7], "conv1"),
)
def flip_add(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(x + x.flip(1))


@case("channels rolled by a number written out", around, dead("conv1.weight", ODD, "conv1"))
def roll(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu().roll(4, 1))


@case(
    "channels repeated: each has two columns",
    lambda: around(inputs=16),
    dead("conv1.weight", SOME, "conv1"),
)
def repeat(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu().repeat(1, 2, 1, 1))


@case(
    "one channel spread over all the others, with the width written out",
    lambda: around(one=conv(3, 1)),
    dead("conv1.weight", SOME, "conv1"),
)
def expand(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x) * self.one(x).expand(-1, 8, -1, -1).sigmoid())


@case(
    "some channels overwritten in place, by slices with the border written out",
    around,
    dead("conv1.weight", [1, 3, 5, 6], "conv1"),
)
def slice_assign(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    x[:, :4] = 2 * x[:, :4]
    return self.conv2(x.relu())


@case(
    "two flattened branches joined: one channel is a run of columns, shifted by the other branch",
    lambda: {"a": conv(3, 6, stride=2), "b": conv(3, 8, stride=4), "fc": nn.Linear(128, 5)},
    dead("b.weight", SOME, "b"),
)
def flatten_concat(self: Net, x: Tensor) -> Tensor:
    return self.fc(torch.cat([self.a(x).relu().flatten(1), self.b(x).relu().flatten(1)], 1))


@case(
    "patches merged: four shifted copies of the channels side by side",
    lambda: around(inputs=32),
    dead("conv1.weight", SOME, "conv1"),
)
def patch_merging(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(torch.cat([x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)], 1))


@case(
    "a U-Net's skip: the encoder's channels are read by the next stage and, shifted, by the decoder",
    lambda: {
        "conv1": conv(3, 8),
        "bn1": bn(8),
        "inner": conv(8, 12),
        "up": nn.ConvTranspose2d(12, 6, 2, stride=2),
        "head": conv(14, 4),
    },
    dead("conv1.weight", SOME, "conv1", "bn1"),
)
def unet(self: Net, x: Tensor) -> Tensor:
    skip = self.bn1(self.conv1(x)).relu()
    x = self.up(self.inner(F.max_pool2d(skip, 2)).relu())
    return self.head(torch.cat([x, skip], 1))


# Groups, shuffles and separable blocks


@case(
    "a grouped reader: each group must lose as many",
    lambda: around(bn1=bn(8), grouped=conv(8, 8, groups=2)),
    dead("conv1.weight", [1, 2, 5, 6], "conv1", "bn1"),
)
def grouped_conv(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.grouped(self.bn1(self.conv1(x)).relu()).relu())


@case(
    "a grouped convolution's own filters: each group must lose as many",
    lambda: around(grouped=conv(8, 8, groups=2), bn1=bn(8)),
    dead("grouped.weight", [0, 3, 4, 7], "grouped", "bn1"),
)
def grouped_filters(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.bn1(self.grouped(self.conv1(x).relu())).relu())


@case(
    "a transposed convolution in groups: its weight is laid out as (inputs, outputs of a group)",
    lambda: around(up=nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), bn1=bn(8)),
    dead("bn1.weight", [0, 3, 4, 7], "bn1"),
)
def grouped_transpose(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.gelu(self.bn1(self.up(self.conv1(x).relu()))))


@case(
    "a transposed convolution in groups, what it reads: each group must lose as many",
    lambda: around(bn1=bn(8), up=nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2)),
    dead("conv1.weight", [1, 2, 5, 6], "conv1", "bn1"),
)
def grouped_transpose_reader(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.up(self.bn1(self.conv1(x)).relu()).relu())


@case(
    "grouped, shuffled, grouped: wrong weights go without a word (Torch-Pruning#45)",
    lambda: around(bn1=bn(8), a=conv(8, 8, groups=2), bn2=bn(8), shuffle=nn.ChannelShuffle(2), b=conv(8, 8, groups=2)),
    dead("a.weight", [0, 2, 4, 6], "a", "bn2"),
)
def channel_shuffle(self: Net, x: Tensor) -> Tensor:
    x = self.bn2(self.a(self.bn1(self.conv1(x)).relu())).relu()
    return self.conv2(self.b(self.shuffle(x)))


def shuffled(x: Tensor, groups: int) -> Tensor:
    """ShuffleNet's own words for it: view, transpose, view."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


@case(
    "ShuffleNet v1: between the grouped convolutions a shuffle and a depthwise one, and a shortcut around",
    lambda: around(
        a=conv(8, 8, 1, groups=2, bias=False),
        bn1=bn(8),
        depth=conv(8, 8, groups=8, bias=False),
        bn2=bn(8),
        b=conv(8, 8, 1, groups=2, bias=False),
        bn3=bn(8),
    ),
    dead("a.weight", [0, 2, 4, 6], "a", "bn1", ("depth", [0, 1, 4, 5]), ("bn2", [0, 1, 4, 5])),
)
def shufflenet_v1(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    y = shuffled(self.bn1(self.a(x)).relu(), 2)
    return self.conv2((x + self.bn3(self.b(self.bn2(self.depth(y))))).relu())


def shuffle_branch(inputs: int = 4, stride: int = 1) -> nn.Sequential:
    """Pointwise, depthwise, pointwise (5) with a norm (6)."""
    return nn.Sequential(
        conv(inputs, 4, 1, bias=False),
        bn(4),
        nn.ReLU(),
        conv(4, 4, groups=4, stride=stride, bias=False),
        bn(4),
        conv(4, 4, 1, bias=False),
        bn(4),
        nn.ReLU(),
    )


@case(
    "ShuffleNet v2, stride 1: half of the channels pass by, then both halves are shuffled",
    lambda: around(bn1=bn(8), right=shuffle_branch()),
    dead("conv1.weight", ODD, "conv1", "bn1", ("right.5", [1, 3]), ("right.6", [1, 3])),
)
def shufflenet_v2(self: Net, x: Tensor) -> Tensor:
    left, right = self.bn1(self.conv1(x)).relu().chunk(2, 1)
    return self.conv2(shuffled(torch.cat([left, self.right(right)], 1), 2))


@case(
    "ShuffleNet v2, stride 2: both branches read all and are shuffled",
    lambda: {
        "conv1": conv(3, 6),
        "depth": conv(6, 6, stride=2, groups=6, bias=False),
        "bn1": bn(6),
        "left": conv(6, 4, 1, bias=False),
        "bn2": bn(4),
        "right": shuffle_branch(6, stride=2),
        "conv2": conv(8, 4),
    },
    dead("left.weight", [0, 3], "left", "bn2", "right.5", "right.6"),
)
def shufflenet_v2_down(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    left = self.bn2(self.left(self.bn1(self.depth(x)))).relu()
    return self.conv2(shuffled(torch.cat([left, self.right(x)], 1), 2))


@case(
    "two ShuffleNet v2 units: what is halved in the second was shuffled in the first (torchvision's crashes others)",
    lambda: around(bn1=bn(8), a=shuffle_branch(), b=shuffle_branch()),
    dead(
        "conv1.weight",
        ODD,
        "conv1",
        "bn1",
        ("a.5", [1, 3]),
        ("a.6", [1, 3]),
        ("b.5", [2, 3]),
        ("b.6", [2, 3]),
    ),
)
def shufflenet_v2_twice(self: Net, x: Tensor) -> Tensor:
    x = self.bn1(self.conv1(x)).relu()
    for branch in (self.a, self.b):
        left, right = x.chunk(2, 1)
        x = shuffled(torch.cat([left, branch(right)], 1), 2)
    return self.conv2(x)


@case(
    "a depthwise convolution: inputs and filters are the same channels, and so is its number of groups",
    lambda: around(bn1=bn(8), depth=conv(8, 8, groups=8), bn2=bn(8)),
    dead("conv1.weight", SOME, "conv1", "bn1", "depth", "bn2"),
)
def depthwise(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.bn2(self.depth(self.bn1(self.conv1(x)).relu())).relu())


@case(
    "a depthwise convolution with two filters for each channel",
    lambda: around(inputs=16, depth=conv(8, 16, groups=8), bn1=bn(16)),
    dead("conv1.weight", SOME, "conv1", ("depth", spread(SOME, 2)), ("bn1", spread(SOME, 2))),
)
def depthwise_multiplier(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.hardswish(self.bn1(self.depth(self.conv1(x).relu()))))


@case(
    "ResNeXt: two channels in each of many groups, one to go in each",
    lambda: {
        "conv1": conv(3, 12, 1),
        "bn1": bn(12),
        "grouped": conv(12, 12, groups=6),
        "bn2": bn(12),
        "outer": conv(12, 8, 1),
        "bn3": bn(8),
        "short": conv(3, 8, 1),
        "conv2": conv(8, 4),
    },
    dead("conv1.weight", [1, 3, 5, 7, 9, 11], "conv1", "bn1"),
)
def resnext(self: Net, x: Tensor) -> Tensor:
    y = self.bn2(self.grouped(self.bn1(self.conv1(x)).relu())).relu()
    return self.conv2((self.bn3(self.outer(y)) + self.short(x)).relu())


@case(
    "ResNeXt: whole groups to go, inputs and filters of each",
    lambda: around(12, 12, bn1=bn(12), grouped=conv(12, 12, groups=6), bn2=bn(12)),
    dead("conv1.weight", spread([0, 2, 5], 2), "conv1", "bn1", "grouped", "bn2"),
)
def resnext_groups(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.bn2(self.grouped(self.bn1(self.conv1(x)).relu())).relu())


def inverted(**more: nn.Module) -> Layers:
    """Widened, filtered by channel, narrowed."""
    return around(
        widen=conv(8, 12, 1),
        bn1=bn(12),
        depth=conv(12, 12, groups=12),
        bn2=bn(12),
        narrow=conv(12, 8, 1),
        bn3=bn(8),
        **more,
    )


@case(
    "MobileNetV2's inverted residual: the inside is tied through the depthwise convolution",
    inverted,
    dead("widen.weight", SOME12, "widen", "bn1", "depth", "bn2"),
)
def inverted_residual(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    y = F.relu6(self.bn2(self.depth(F.relu6(self.bn1(self.widen(x))))))
    return self.conv2(x + self.bn3(self.narrow(y)))


@case(
    "MobileNetV3: hard swish, and a product across layers (nni#4540)",
    lambda: inverted(squeeze=conv(12, 4, 1), excite=conv(4, 12, 1)),
    dead("widen.weight", SOME12, "widen", "bn1", "depth", "bn2"),
)
def mobilenet_v3(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    y = F.hardswish(self.bn2(self.depth(F.hardswish(self.bn1(self.widen(x))))))
    y = y * F.hardsigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
    return self.conv2(x + self.bn3(self.narrow(y)))


# Products: a channel is switched by another layer's


@case(
    "squeeze and excitation by 1x1 convolutions: the gate's filters are the gated channels",
    lambda: around(bn1=bn(8), squeeze=conv(8, 4, 1), excite=conv(4, 8, 1)),
    dead("conv1.weight", SOME, "conv1", "bn1"),
)
def se_conv(self: Net, x: Tensor) -> Tensor:
    x = self.bn1(self.conv1(x)).relu()
    return self.conv2(x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid())


@case(
    "squeeze and excitation by Linear layers: the gate is viewed back to an image",
    lambda: around(squeeze=nn.Linear(8, 4), excite=nn.Linear(4, 8)),
    dead("conv1.weight", SOME, "conv1"),
)
def se_linear(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    batch, channels, _, _ = x.shape
    gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1).view(batch, channels)))).sigmoid()
    return self.conv2(x * gate.view(batch, channels, 1, 1))


@case(
    "ECA: a convolution slides over the channels, so their neighbours matter",
    lambda: around(slide=nn.Conv1d(1, 1, 3, padding=1)),
    refused="conv",
)
def eca(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(x * self.slide(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid())


@case(
    "the product of two layers is dead where one of them is",
    lambda: {"a": conv(3, 8), "b": conv(3, 8), "conv2": conv(8, 4)},
    dead("b.weight", SOME, "a"),
)
def gate(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.a(x) * self.b(x).sigmoid())


@case(
    "a gated linear unit: channel c of 8 is made of c and c + 8 of the layer before",
    lambda: around(16),
    dead("conv1.weight", both(SOME), ("conv1", SOME)),
)
def glu(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.glu(self.conv1(x), 1))


@case(
    "a gated linear unit written as chunk, sigmoid and product",
    lambda: around(16),
    dead("conv1.weight", both(SOME), ("conv1", SOME)),
)
def chunk_gate(self: Net, x: Tensor) -> Tensor:
    value, control = self.conv1(x).chunk(2, 1)
    return self.conv2(value * control.sigmoid())


@case(
    "Maxout: the larger of two neighbours is one channel",
    lambda: around(16),
    dead("conv1.weight", spread(SOME, 2), "conv1"),
)
def maxout(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    return self.conv2(x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).max(2).values)


@case(
    "FiLM: another input's Linear gives each channel a scale and a shift",
    lambda: around(film=nn.Linear(5, 16)),
    dead("conv1.weight", SOME, "conv1", ("film", [8 + channel for channel in SOME])),
    lambda: (image(), vector()),
)
def film(self: Net, x: Tensor, condition: Tensor) -> Tensor:
    scale, shift = self.film(condition).chunk(2, 1)
    return self.conv2((self.conv1(x) * scale[:, :, None, None] + shift[:, :, None, None]).relu())


@case(
    "einsum's outer product: channel i is a run of the flattened columns (Torch-Pruning: IndexError)",
    lambda: {"a": nn.Linear(5, 8), "b": nn.Linear(5, 6), "fc": nn.Linear(48, 4)},
    dead("a.weight", SOME, "a"),
    vector,
)
def einsum_outer(self: Net, x: Tensor) -> Tensor:
    return self.fc(torch.einsum("bi,bj->bij", self.a(x), self.b(x)).flatten(1))


@case(
    "einsum with a bare parameter contracts the channels",
    lambda: {"conv1": conv(3, 8), "mix": weights(4, 8)},
    dead("conv1.weight", SOME, "conv1"),
)
def einsum_mix(self: Net, x: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", self.conv1(x).relu(), self.mix)


@case(
    "bilinear pooling: channel j of the second branch is every sixth column",
    lambda: {"a": conv(3, 8), "b": conv(3, 6), "fc": nn.Linear(48, 4)},
    dead("b.weight", [0, 2, 5], "b"),
)
def bilinear_pooling(self: Net, x: Tensor) -> Tensor:
    return self.fc((self.a(x).flatten(2) @ self.b(x).flatten(2).transpose(1, 2)).flatten(1))


@case(
    "nn.Bilinear has the channels of two layers in its weight",
    lambda: {"a": nn.Linear(5, 8), "b": nn.Linear(5, 6), "join": nn.Bilinear(8, 6, 4)},
    dead("a.weight", SOME, "a"),
    vector,
)
def bilinear_layer(self: Net, x: Tensor) -> Tensor:
    return self.join(self.a(x).tanh(), self.b(x).tanh())


@case(
    "two towers and a dot product: the last layers are tied though both are the output's",
    lambda: {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8)},
    dead("b.weight", SOME, "a"),
    two_vectors,
)
def two_towers(self: Net, x: Tensor, y: Tensor) -> Tensor:
    return (self.a(x) * self.b(y)).sum(-1)


@case(
    "two towers of unit length, all against all: zeros take no part in a length",
    lambda: {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8)},
    dead("a.weight", SOME, "a", "b"),
    two_vectors,
)
def similarity(self: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.normalize(self.a(x), dim=-1) @ F.normalize(self.b(y), dim=-1).T


@case(
    "a weight that is a product of parameters: its rank can be cut, though no activation has it",
    lambda: {"left": weights(4, 8), "right": weights(8, 5)},
    dead("left@1", SOME, "left@1"),
    vector,
)
def low_rank(self: Net, x: Tensor) -> Tensor:
    return F.linear(x, self.left @ self.right)


# Layouts: where the channels lie


@case(
    "channels last, then flattened: channel c is every eighth column; removed as a run without a word",
    lambda: {"conv1": conv(3, 8, stride=2), "fc": nn.Linear(128, 5)},
    dead("conv1.weight", SOME, "conv1"),
)
def transpose_flatten(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.conv1(x).relu().flatten(2).transpose(1, 2).flatten(1))


@case(
    "the same by permute and reshape",
    lambda: {"conv1": conv(3, 8, stride=2), "fc": nn.Linear(128, 5)},
    dead("conv1.weight", SOME, "conv1"),
)
def permute_reshape(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.conv1(x).relu().permute(0, 2, 3, 1).reshape(x.shape[0], -1))


@case(
    "a view with the width written out",
    lambda: {"conv1": conv(3, 12), "fc": nn.Linear(12, 5)},
    dead("conv1.weight", SOME12, "conv1"),
)
def view_literal(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.conv1(x).relu().view(-1, 12, 64).mean(2))


@case(
    "a view with the width taken from the shape",
    lambda: {"conv1": conv(3, 8), "fc": nn.Linear(8, 5)},
    dead("conv1.weight", SOME, "conv1"),
)
def view_shape(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    batch, channels, height, width = x.shape
    return self.fc(x.view(batch, channels, height * width).mean(2))


@case(
    "channels viewed as rows of 4 that share a layer: only whole rows, or the same place in each, can go",
    lambda: {"fc1": nn.Linear(5, 12), "row": nn.Linear(4, 2), "fc2": nn.Linear(6, 4)},
    dead("fc1.weight", [4, 5, 6, 7], "fc1", ("fc2.weight@1", [2, 3])),
    vector,
)
def view_rows(self: Net, x: Tensor) -> Tensor:
    return self.fc2(self.row(self.fc1(x).tanh().reshape(x.shape[0], -1, 4)).tanh().flatten(1))


@case(
    "channels folded into the batch and back",
    lambda: around(each=conv(1, 1, bias=False)),
    dead("conv1.weight", SOME, "conv1"),
)
def channels_in_batch(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(self.each(x.reshape(-1, 1, 8, 8)).reshape(x.shape))


@case(
    "PixelShuffle: four neighbours become one channel (Torch-Pruning#98)",
    lambda: around(16, 4),
    dead("conv1.weight", spread([1, 3], 4), "conv1"),
)
def pixel_shuffle(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.pixel_shuffle(self.conv1(x), 2).relu())


@case(
    "PixelUnshuffle: one channel becomes four neighbours",
    lambda: around(4, 16),
    dead("conv1.weight", [0, 2], "conv1"),
)
def pixel_unshuffle(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.pixel_unshuffle(self.conv1(x), 2).relu())


@case(
    "unfold: each channel is nine columns, one for each place in the window",
    lambda: {"conv1": conv(3, 8), "fc": nn.Linear(72, 4)},
    dead("conv1.weight", SOME, "conv1"),
)
def unfold(self: Net, x: Tensor) -> Tensor:
    return self.fc(F.unfold(self.conv1(x).relu(), 3, padding=1).transpose(1, 2))


@case(
    "InstanceNorm with weight and bias: each channel by itself",
    lambda: around(norm=nn.InstanceNorm2d(8, affine=True)),
    dead("conv1.weight", SOME, "conv1", "norm"),
)
def instance_norm(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x)).relu())


@case(
    "GroupNorm: its statistics are of all channels of a group, so only whole groups can go unnoticed",
    lambda: around(norm=nn.GroupNorm(4, 8)),
    dead("conv1.weight", [0, 1, 4, 5], "conv1", "norm"),
)
def group_norm(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x)).relu())


@case(
    "LayerNorm over channels and pixels: its statistics are of all channels",
    lambda: around(norm=nn.LayerNorm((8, 8, 8))),
    refused="norm",
)
def layer_norm_image(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x)).relu())


@case(
    "LayerNorm over channels that were moved to the end",
    lambda: around(norm=nn.LayerNorm(8)),
    refused="norm",
)
def layer_norm_channels(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.norm(self.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@case("local response normalization pools over neighbouring channels", around, refused="pool")
def local_response_norm(self: Net, x: Tensor) -> Tensor:
    return self.conv2(F.local_response_norm(self.conv1(x), 3))


@case(
    "ConvNeXt: a norm and two Linear layers on channels last, and a gamma for each channel",
    lambda: around(
        depth=conv(8, 8, 7, groups=8),
        norm=nn.LayerNorm(8),
        widen=nn.Linear(8, 12),
        narrow=nn.Linear(12, 8),
        gamma=nn.Parameter(torch.ones(8)),
    ),
    dead("widen.weight", SOME12, "widen"),
)
def convnext(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x)
    y = self.norm(self.depth(x).permute(0, 2, 3, 1))
    y = self.gamma * self.narrow(F.gelu(self.widen(y)))
    return self.conv2(x + y.permute(0, 3, 1, 2))


@case(
    "Mixer: a Linear over tokens, whose number is the input's; only its inside can go",
    lambda: {
        "patch": conv(3, 8, stride=2),
        "norm1": nn.LayerNorm(8),
        "mix1": nn.Linear(16, 12),
        "mix2": nn.Linear(12, 16),
        "norm2": nn.LayerNorm(8),
        "fc1": nn.Linear(8, 12),
        "fc2": nn.Linear(12, 8),
    },
    dead("mix1.weight", SOME12, "mix1"),
)
def mixer(self: Net, x: Tensor) -> Tensor:
    x = self.patch(x).flatten(2).transpose(1, 2)
    x = x + self.mix2(F.gelu(self.mix1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
    return (x + self.fc2(F.gelu(self.fc1(self.norm2(x))))).mean(1)


@case(
    "a class token and positions are parameters with the patches' channels",
    lambda: {
        "patch": nn.Conv2d(3, 8, 4, 4),
        "token": weights(1, 1, 8),
        "position": weights(1, 5, 8),
        "fc1": nn.Linear(8, 12),
        "fc2": nn.Linear(12, 8),
        "head": nn.Linear(8, 4),
    },
    dead("patch.weight", SOME, "patch", "token@2", "position@2", "fc2"),
)
def class_token(self: Net, x: Tensor) -> Tensor:
    x = self.patch(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
    x = x + self.fc2(F.gelu(self.fc1(x)))
    return self.head(x[:, 0] + x.mean(1))


# Attention: whole heads go, from queries, keys, values and the projection


def causal(scores: Tensor) -> Tensor:
    return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf).softmax(-1)


@case(
    "timm's attention: queries, keys and values in one Linear, the number of heads written out",
    lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
    dead("proj.weight@1", HEADS, ("qkv", [16 + channel for channel in HEADS])),
    states,
)
def attention_fused(self: Net, x: Tensor) -> Tensor:
    batch, length, width = x.shape
    q, k, v = self.qkv(x).reshape(batch, length, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
    weight = ((q * 2**-0.5) @ k.transpose(-2, -1)).softmax(-1)
    return self.proj((weight @ v).transpose(1, 2).reshape(batch, length, width))


def separate() -> Layers:
    return {name: nn.Linear(8, 8) for name in ("q", "k", "v", "proj")}


@case(
    "three Linear layers, the number of heads found by -1: a head's width must stay",
    separate,
    dead("proj.weight@1", HEADS, "v"),
    states,
)
def attention_separate(self: Net, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = (layer(x).view(batch, length, -1, 2).transpose(1, 2) for layer in (self.q, self.k, self.v))
    weight = causal(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]))
    return self.proj((weight @ v).transpose(1, 2).flatten(2))


@case(
    "the width of the values is not that of queries and keys: the same place can go in each head",
    separate,
    dead("v.weight", [0, 2, 4, 6], "v"),
    states,
)
def attention_values(self: Net, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = (layer(x).view(batch, length, 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
    weight = (q @ k.transpose(2, 3) * 2**-0.5).softmax(-1)
    return self.proj((weight @ v).transpose(1, 2).flatten(2))


@case(
    "nanoGPT's attention: split at a width written out, and torch's own product, whose scale is a head's width",
    lambda: {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)},
    dead("proj.weight@1", HEADS, ("qkv", [16 + channel for channel in HEADS])),
    states,
)
def attention_sdpa(self: Net, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(2, (4, 2)).transpose(1, 2) for part in self.qkv(x).split(8, 2))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.proj(y.transpose(1, 2).contiguous().view(x.shape))


@case(
    "nn.MultiheadAttention: a fused weight, and one attribute for the width inside and outside (neural-compressor#525)",
    lambda: {
        "embed": nn.Linear(5, 8),
        "attention": nn.MultiheadAttention(8, 4, batch_first=True),
        "head": nn.Linear(8, 4),
    },
    dead(
        "attention.out_proj.weight@1",
        HEADS,
        "embed",
        "head.weight@1",
        ("attention.in_proj_weight", [16 + channel for channel in HEADS]),
        ("attention.in_proj_bias", [16 + channel for channel in HEADS]),
    ),
    sequence,
)
def multihead_attention(self: Net, x: Tensor) -> Tensor:
    x = self.embed(x)
    return self.head(self.attention(x, x, x, need_weights=False)[0])


@case(
    "nn.TransformerEncoderLayer: what may go is inside its feed-forward part",
    lambda: {"layer": nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), "head": nn.Linear(8, 4)},
    dead("layer.linear1.weight", SOME12, "layer.linear1"),
    states,
)
def encoder_layer(self: Net, x: Tensor) -> Tensor:
    return self.head(self.layer(x))


def grouped_query() -> Layers:
    """Four heads of 4 that share two heads of keys and values."""
    return {
        name: nn.Linear(*shape, bias=False)
        for name, shape in {"q": (8, 16), "k": (8, 8), "v": (8, 8), "o": (16, 8)}.items()
    }


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: the halves of a head's width are turned against each other."""
    angle = torch.outer(torch.arange(x.shape[-2]), torch.tensor([1.0, 0.1])).repeat(1, 2)
    a, b = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


@case(
    "grouped queries by repeat_interleave, with rotary positions: two heads go with one of keys (Torch-Pruning#519)",
    grouped_query,
    dead("o.weight@1", list(range(8, 16)), ("v", [4, 5, 6, 7])),
    states,
)
def grouped_query_repeat(self: Net, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = (layer(x).view(batch, length, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
    k, v = rotated(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    y = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
    return self.o(y.transpose(1, 2).flatten(2))


@case(
    "grouped queries by expand and reshape, as in transformers: the number of heads written out",
    grouped_query,
    dead("o.weight@1", list(range(8)), ("v", [0, 1, 2, 3])),
    states,
)
def grouped_query_expand(self: Net, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = (layer(x).view(batch, length, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
    k, v = (part[:, :, None].expand(batch, 2, 2, length, 4).reshape(batch, 4, length, 4) for part in (k, v))
    return self.o((causal(q @ k.transpose(2, 3) / 2) @ v).transpose(1, 2).reshape(batch, length, -1))


@case(
    "SwiGLU behind an RMSNorm: gate and value are two layers with one inside",
    lambda: {
        "norm": nn.RMSNorm(8),
        "gate": nn.Linear(8, 12, bias=False),
        "up": nn.Linear(8, 12, bias=False),
        "down": nn.Linear(12, 8, bias=False),
    },
    dead("gate.weight", SOME12, "up"),
    states,
)
def swiglu(self: Net, x: Tensor) -> Tensor:
    y = self.norm(x)
    return x + self.down(F.silu(self.gate(y)) * self.up(y))


# Embeddings and recurrent layers


@case(
    "an embedding has its channels in the second dimension",
    lambda: {"embed": nn.Embedding(11, 8), "fc": nn.Linear(8, 4)},
    dead("embed.weight@1", SOME, "embed.weight@1"),
    words,
)
def embedding(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.embed(x).mean(1))


def tied() -> Layers:
    embed, head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
    head.weight = embed.weight
    return {"embed": embed, "fc": nn.Linear(8, 8), "head": head}


@case(
    "embedding and decoder are one tensor: others untie it, and the pruned net grows",
    tied,
    dead("embed.weight@1", SOME, "embed.weight@1"),
    words,
)
def tied_embedding(self: Net, x: Tensor) -> Tensor:
    return self.head(self.fc(self.embed(x)).tanh())


@case(
    "encoder and decoder are one tensor, once transposed",
    lambda: {"encoder": nn.Linear(5, 8), "bias": weights(5)},
    dead("encoder.weight", SOME, "encoder"),
    vector,
)
def tied_transpose(self: Net, x: Tensor) -> Tensor:
    return F.linear(self.encoder(x).tanh(), self.encoder.weight.t(), self.bias)


def recurrent(kind: type[nn.RNNBase], outputs: int = 8, **options: Any) -> Layers:
    return {"rnn": kind(5, 8, batch_first=True, **options), "fc": nn.Linear(outputs, 4)}


@case(
    "a hidden unit of an LSTM is a row in each of four gates and a column (Torch-Pruning: IndexError)",
    lambda: recurrent(nn.LSTM),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME))),
    sequence,
)
def lstm(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "only the last step of an LSTM is read",
    lambda: recurrent(nn.LSTM),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME))),
    sequence,
)
def lstm_last_step(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0][:, -1])


@case(
    "the final state of an LSTM is read, not its outputs",
    lambda: recurrent(nn.LSTM),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME))),
    sequence,
)
def lstm_final_state(self: Net, x: Tensor) -> Tensor:
    _, (hidden, _) = self.rnn(x)
    return self.fc(hidden[-1])


@case(
    "an LSTM that starts from parameters",
    lambda: {**recurrent(nn.LSTM), "h": weights(1, 1, 8), "c": weights(1, 1, 8)},
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME)), "h@2", "c@2"),
    sequence,
)
def lstm_initial_state(self: Net, x: Tensor) -> Tensor:
    start = (self.h.expand(-1, x.shape[0], -1).contiguous(), self.c.expand(-1, x.shape[0], -1).contiguous())
    return self.fc(self.rnn(x, start)[0])


@case(
    "two layers of one nn.LSTM have one hidden size: both must lose as many",
    lambda: recurrent(nn.LSTM, num_layers=2),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME))),
    sequence,
)
def lstm_two_layers(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "two directions have one hidden size, and their outputs stand side by side",
    lambda: recurrent(nn.LSTM, 16, bidirectional=True),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(4, SOME))),
    sequence,
)
def lstm_bidirectional(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "an LSTM with a projection: the cell's units are seen by nobody but the projection",
    lambda: recurrent(nn.LSTM, 6, proj_size=6),
    dead(
        "rnn.weight_hr_l0@1",
        SOME,
        *((f"rnn.{name}_l0", gates(4, SOME)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    ),
    sequence,
)
def lstm_projection_units(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "an LSTM with a projection: what it puts out are the projection's rows",
    lambda: recurrent(nn.LSTM, 6, proj_size=6),
    dead("rnn.weight_hr_l0", [0, 2, 5], "rnn.weight_hr_l0"),
    sequence,
)
def lstm_projection(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "a GRU has three gates, and a unit that starts at zero must stay there",
    lambda: recurrent(nn.GRU),
    dead("rnn.weight_hh_l0@1", SOME, ("rnn", gates(3, SOME))),
    sequence,
)
def gru(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "a plain recurrent layer",
    lambda: recurrent(nn.RNN),
    dead("rnn.weight_hh_l0@1", SOME, "rnn"),
    sequence,
)
def rnn(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(x)[0])


@case(
    "a cell in a Python loop, its first state made with the width written out",
    lambda: {"cell": nn.LSTMCell(5, 8), "fc": nn.Linear(8, 4)},
    dead("cell.weight_hh@1", SOME, ("cell", gates(4, SOME))),
    sequence,
)
def lstm_cell(self: Net, x: Tensor) -> Tensor:
    hidden = cell = x.new_zeros(x.shape[0], 8)
    for step in x.unbind(1):
        hidden, cell = self.cell(step, (hidden, cell))
    return self.fc(hidden)


@case(
    "a recurrent layer over the columns of an image: a channel is a run of its inputs",
    lambda: {"conv1": conv(3, 8), "rnn": nn.GRU(64, 6, batch_first=True), "fc": nn.Linear(6, 4)},
    dead("conv1.weight", SOME, "conv1"),
)
def conv_gru(self: Net, x: Tensor) -> Tensor:
    return self.fc(self.rnn(self.conv1(x).relu().permute(0, 3, 1, 2).flatten(2))[0])


# Weights that are computed, and modules that are shared


@case(
    "weight_norm: the weight is computed from a direction and a length (Torch-Pruning: KeyError)",
    lambda: {"conv1": weight_norm(conv(3, 8)), "conv2": conv(8, 4)},
    dead("conv1.weight", SOME, "conv1.parametrizations.weight.original0", "conv1.bias"),
)
def weight_norm_filters(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu())


@case(
    "weight_norm on the reader: columns that go change the length of what is left",
    lambda: {"conv1": conv(3, 8), "conv2": weight_norm(conv(8, 4))},
    dead("conv1.weight", SOME, "conv1", "conv2.parametrizations.weight.original1@1"),
)
def weight_norm_reader(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).relu())


@case(
    "spectral_norm: buffers as long as rows and columns",
    lambda: {"fc1": spectral_norm(nn.Linear(5, 8)), "fc2": spectral_norm(nn.Linear(8, 4))},
    dead(
        "fc1.weight",
        SOME,
        "fc1.parametrizations.weight.original",
        "fc1.bias",
        "fc2.parametrizations.weight.original@1",
    ),
    vector,
)
def spectral(self: Net, x: Tensor) -> Tensor:
    return self.fc2(self.fc1(x).tanh())


@case(
    "weight standardization: the weight is computed in the forward, each filter by itself",
    lambda: {"kernel": weights(8, 3, 3, 3), "bias": weights(8), "conv2": conv(8, 4)},
    dead("kernel", SOME, "kernel", "bias"),
)
def weight_standardization(self: Net, x: Tensor) -> Tensor:
    centred = self.kernel - self.kernel.mean((1, 2, 3), keepdim=True)
    kernel = centred / (self.kernel.std((1, 2, 3), keepdim=True) + 1e-5)
    return self.conv2(F.conv2d(x, kernel, self.bias, padding=1).relu())


@case(
    "one layer used twice in a row: its inputs and its outputs are the same channels",
    lambda: around(bn1=bn(8), twice=conv(8, 8)),
    dead("conv1.weight", SOME, "conv1", "bn1", "twice"),
)
def shared_in_a_row(self: Net, x: Tensor) -> Tensor:
    x = self.bn1(self.conv1(x)).relu()
    return self.conv2(self.twice(self.twice(x).relu()).relu())


@case(
    "one layer reads two branches: they are tied though they never meet",
    lambda: {"a": conv(3, 8), "b": conv(3, 8), "shared": conv(8, 4)},
    dead("b.weight", SOME, "a", "b"),
)
def shared_by_branches(self: Net, x: Tensor) -> Tensor:
    return torch.cat([self.shared(self.a(x).relu()), self.shared(self.b(x).tanh())], 1)


# What goes in and what comes out


@case(
    "two inputs",
    lambda: {"a": conv(3, 8), "b": conv(3, 8), "conv2": conv(8, 4)},
    dead("a.weight", SOME, "a", "b"),
    two_images,
)
def two_inputs(self: Net, x: Tensor, y: Tensor) -> Tensor:
    return self.conv2((self.a(x) + self.b(y)).relu())


@case(
    "inputs by name, as in transformers, one of them whole numbers and one a mask; outputs by name",
    lambda: {"embed": nn.Embedding(11, 8), "fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 4)},
    dead("fc1.weight", SOME, "fc1"),
    lambda: {"input_ids": words(), "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])},
)
def dict_input(self: Net, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    mask = attention_mask[..., None]
    pooled = (self.embed(input_ids) * mask).sum(1) / mask.sum(1)
    return {"pooled": pooled, "scores": self.fc2(F.gelu(self.fc1(pooled)))}


@case(
    "a tuple of outputs, with a list in it",
    lambda: around(box=conv(8, 4, 1), label=conv(8, 3, 1)),
    dead("conv1.weight", SOME, "conv1"),
)
def tuple_output(self: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = self.conv1(x).relu()
    return self.conv2(x), [self.box(x), self.label(x)]


@case(
    "outputs by name",
    lambda: around(label=conv(8, 3, 1)),
    dead("conv1.weight", SOME, "conv1"),
)
def dict_output(self: Net, x: Tensor) -> dict[str, Tensor]:
    x = self.conv1(x).relu()
    return {"image": self.conv2(x), "label": self.label(x).mean((2, 3))}


@case("the channels are the output: they are the user's", lambda: {"conv1": conv(3, 8), "bn1": bn(8)}, refused="output")
def output_channels(self: Net, x: Tensor) -> Tensor:
    return self.bn1(self.conv1(x)).relu()


@case("inner features are given back beside the result", around, refused="output")
def output_features(self: Net, x: Tensor) -> dict[str, Tensor]:
    x = self.conv1(x).relu()
    return {"result": self.conv2(x), "features": x}


@case(
    "which way it goes depends on the data: what is recorded is true for the example only (model-optimization#1299)",
    lambda: around(other=conv(8, 4)),
    refused="control flow",
)
def control_flow(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(x) if x.sum() > 0 else self.other(x)


# The channels compared with each other: to remove one changes the others


@case("a softmax over channels: zero is not nothing", around, refused="softmax")
def softmax_over_channels(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).softmax(1))


@case("running sums over channels", around, refused="cumsum")
def cumsum(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).cumsum(1))


@case("the index of the largest channel", lambda: {"conv1": conv(3, 8)}, refused="argmax")
def argmax(self: Net, x: Tensor) -> Tensor:
    return self.conv1(x).argmax(1)


@case("the three largest channels", lambda: around(inputs=3), refused="topk")
def topk(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).topk(3, 1).values)


@case("channels sorted at each pixel", around, refused="sort")
def sort(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).sort(1).values)


@case("the largest over channels: zero may be the largest", lambda: around(inputs=1), refused="max")
def max_over_channels(self: Net, x: Tensor) -> Tensor:
    return self.conv2(self.conv1(x).amax(1, keepdim=True))


@case("the mean over channels, given back to each: it is divided by how many there are", around, refused="mean")
def mean_over_channels(self: Net, x: Tensor) -> Tensor:
    x = self.conv1(x).relu()
    return self.conv2(x - x.mean(1, keepdim=True).expand_as(x))
