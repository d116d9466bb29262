"""What each operation does to labels: a rule is a function of the flow and the operation.

A contraction joins what it sums over and passes the rest; a normalisation or reduction freezes what it goes over;
pointwise operations join what meets. What has no rule freezes all that it touches, by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

import numpy as np
import torch

from decoct.graph.labels import ANY, FIRM, FIXED, KERNEL, Flow, Label, Labels
from decoct.graph.moved import moved
from decoct.graph.movement import MOVEMENTS
from decoct.graph.tape import RECURRENT, Op, Ref

Rule = Callable[[Flow, Op], None]


def rule_of(op: Op) -> Rule:
    """The rule of an operation, `unknown` for one that has none."""
    if op.name in RULES:
        return RULES[op.name]
    if op.name in MOVEMENTS:
        return moved
    tagged = torch.Tag.pointwise in getattr(op.function, "tags", ())
    if tagged or op.name in POINTWISE or op.name.rstrip("_") in POINTWISE:
        return pointwise
    return spatial if op.name.startswith(SPATIAL) else unknown


def unknown(flow: Flow, op: Op) -> None:
    """What has no rule: everything that it touches is frozen, with its name."""
    where = f" in {op.module}" if op.module else ""
    if all(ref.key in flow.tape.constants for ref in op.outputs) and op.outputs:
        return
    for ref in op.refs():
        flow.freeze_all(ref, f"{op.name}{where} is not understood")
    for ref in op.outputs:
        flow.put(ref, [None] * len(ref.shape))


def pointwise(flow: Flow, op: Op) -> None:
    """What meets at a position stands or falls together."""
    refs = op.refs()
    out = op.outputs[0]
    if out.key in flow.tape.constants and out.key not in flow.tape.written:
        return
    result: Labels = []
    for back in range(len(out.shape), 0, -1):
        meeting = [flow.of(ref)[-back] for ref in refs if len(ref.shape) >= back and ref.shape[-back] > 1]
        result.append(flow.join(meeting, f"{op.name} joins it with {FIRM}") if meeting else ANY)
    if op.name == "aten.copy_":
        for old, new in zip(flow.of(refs[0]), result, strict=True):
            if old is ANY:
                flow.freeze(new, "it is written into a part of another tensor")
    for ref in op.outputs:
        flow.put(ref, list(result))


def spatial(flow: Flow, op: Op) -> None:
    """Batch and channels pass; the dimensions of space cannot be cut."""
    source = op.refs()[0]
    labels = flow.of(source)
    said = re.search(r"([123])d", op.name)
    kept = len(labels) - (int(said[1]) if said else max(len(labels) - 2, 0))
    for label in labels[kept:]:
        flow.freeze(label, f"{op.name} in {op.module or 'the model'} slides over it")
    for ref in op.outputs:
        flow.put(ref, [*labels[:kept], *[None] * (len(ref.shape) - kept)])


def mm(flow: Flow, op: Op) -> None:
    """Matrix products: what is summed over meets, rows and columns pass."""
    left, right = op.refs()[-2:]
    *batch, rows, inner = flow.of(left)
    *other, inner_too, columns = flow.of(right)
    flow.contract(inner, inner_too, op)
    if left.key not in flow.weights and right.key not in flow.weights:
        flow.doubtful += [label for label in (inner, columns) if isinstance(label, np.ndarray)]
    for ref, within, out in ((left, inner, rows), (right, inner_too, columns)):
        if ref.key in flow.weights:
            flow.role(within, "in")
            flow.role(out, "out")
    result = [
        *(flow.join(pair, f"{op.name} joins it with {FIRM}") for pair in zip(batch, other, strict=True)),
        rows,
        columns,
    ]
    if len(op.refs()) == 3:
        result = _added(flow, op, op.refs()[0], result)
    flow.count(op, prod(left.shape) * right.shape[-1], [*batch, rows, inner, columns])
    flow.put(op.outputs[0], result)


def linear(flow: Flow, op: Op) -> None:
    """A dense layer as one operation."""
    inputs, weight, *bias = op.refs()
    *rows, inner = flow.of(inputs)
    out, inner_too = flow.of(weight)
    flow.contract(inner, inner_too, op)
    flow.role(inner_too, "in")
    flow.role(out, "out")
    result: Labels = [*rows, out]
    if bias:
        result = _added(flow, op, bias[0], result)
    flow.count(op, prod(inputs.shape) * weight.shape[0], [*rows, inner, out])
    flow.put(op.outputs[0], result)


def _added(flow: Flow, op: Op, bias: Ref, result: Labels) -> Labels:
    """A bias joins what it is added to."""
    labels = flow.of(bias)
    joined = list(result)
    for back in range(1, len(labels) + 1):
        if bias.shape[-back] > 1:
            flow.role(labels[-back], "shift")
            joined[-back] = flow.join([result[-back], labels[-back]], f"{op.name} adds what cannot be cut")
    return joined


def grouped_mm(flow: Flow, op: Op) -> None:
    """Rows by the matrices of their experts: (rows, in) by (experts, in, out), the rows of each side by side."""
    left, right = op.refs()[:2]
    if len(left.shape) != 2 or len(right.shape) != 3 or op.argument("bias") is not None:
        unknown(flow, op)
        return
    rows, inner = flow.of(left)
    experts, inner_too, columns = flow.of(right)
    flow.freeze(experts, "the data chooses among them")
    flow.contract(inner, inner_too, op)
    if right.key in flow.weights:
        flow.role(inner_too, "in")
        flow.role(columns, "out")
    flow.count(op, prod(left.shape) * right.shape[-1], [rows, inner, columns])
    flow.put(op.outputs[0], [rows, columns])


def mv(flow: Flow, op: Op) -> None:
    """Products of a matrix and a vector."""
    left, right = op.refs()[-2:]
    flow.contract(flow.of(left)[-1], flow.of(right)[0], op)
    flow.put(op.outputs[0], flow.of(left)[:-1])


def convolution(flow: Flow, op: Op) -> None:
    """Convolutions, transposed and grouped ones too: channels meet the weight, space is slid over."""
    inputs, weight = op.argument("input"), op.argument("weight")
    bias, transposed, groups = op.argument("bias"), op.argument("transposed"), op.argument("groups")
    batch, channels, *space = flow.of(inputs)
    first, second, *kernel = flow.of(weight)
    for label in kernel:
        flow.freeze(label, KERNEL)
    for label in space:
        flow.freeze(label, f"{op.name} in {op.module or 'the model'} slides over it")
    out, inner = (second, first) if transposed else (first, second)
    result: Label
    if groups == 1:
        flow.contract(channels, inner, op)
        result = out
    else:
        result = _grouped(flow, op, channels, weight, groups, bool(transposed))
    flow.role(out, "out")
    flow.role(inner, "in")
    labels: Labels = [batch, result, *[None] * len(space)]
    if isinstance(bias, Ref):
        flow.role(flow.of(bias)[0], "shift")
        labels[1] = flow.join([result, flow.of(bias)[0]], f"{op.name} adds what cannot be cut")
    places = prod(inputs.shape[2:] if transposed else op.outputs[0].shape[2:])
    flow.count(op, prod(weight.shape) * places * inputs.shape[0], [batch, out, inner])
    flow.put(op.outputs[0], labels)


def _grouped(flow: Flow, op: Op, channels: Label, weight: Ref, groups: int, transposed: bool) -> Label:
    """A grouped convolution: cut whole groups, or the same channels from every group.

    Its weight is (out, in / groups, ...), of a transposed one (in, out / groups, ...). Returns the label of what
    comes out.
    """
    first, second, *_ = flow.of(weight)
    reason = f"{op.name} joins it with {FIRM}"
    if transposed:
        channels = flow.join([channels, first], reason)
        result: Label = flow.new(groups * weight.shape[1])
    else:
        result = first
    reads = op.argument("input").shape[1] // groups
    options = ["within", "groups"] if groups < reads else ["groups", "within"] if reads > 1 else ["groups"]
    if flow.choose((op.name, weight.shape, groups, "grouped"), options) == "groups":
        _whole_groups(flow, op, [channels, result], groups, "groups")
        flow.freeze(second, "only whole groups of it can be cut")
        return result
    for label in (channels, result):
        if isinstance(label, np.ndarray):
            flow.fold(label, label.size // groups)
    inside = np.tile(_atoms(second, weight.shape[1]), groups)
    flow.join([inside, result if transposed else channels], reason)
    return result


def _whole_groups(flow: Flow, op: Op, sides: list[Label], groups: int, attribute: str) -> None:
    """Join the channels of each group, and the groups of all sides; `attribute` of the layer counts them."""
    heads: list[Label] = []
    for label in sides:
        if isinstance(label, np.ndarray):
            parts = label.reshape(groups, -1)
            flow.edges += [(parts[:, 0], parts[:, other]) for other in range(1, parts.shape[1])]
            label = np.ascontiguousarray(parts[:, 0])
        heads.append(label)
    head = flow.join(heads, f"{op.name} joins it with {FIRM}")
    if isinstance(head, np.ndarray):
        flow.groupings.append((op.module, attribute, head))


def _atoms(label: Label, size: int) -> np.ndarray:
    return label if isinstance(label, np.ndarray) else np.full(size, FIXED)


def attention(flow: Flow, op: Op) -> None:
    """Attention as one operation: heads pass, depth is contracted, time stays."""
    query, key, value = op.refs()[:3]
    (*heads, time, depth), (*kv, time_kv, depth_k), (*kv_too, time_v, depth_v) = map(flow.of, (query, key, value))
    for label in (time, time_kv, time_v):
        flow.freeze(label, f"{op.name} takes it for time")
    if op.argument("scale") is None:
        flow.freeze(depth, f"{op.name} scales by it")
    flow.contract(depth, depth_k, op)
    flow.doubtful += [label for label in (depth, depth_v) if isinstance(label, np.ndarray)]
    result: Labels = []
    for place, (q, k, v) in enumerate(zip(heads, kv, kv_too, strict=True)):
        shared = flow.join([k, v], f"attention joins it with {FIRM}")
        repeat = query.shape[place] // max(key.shape[place], 1)
        if repeat > 1 and isinstance(shared, np.ndarray):
            shared = np.repeat(shared, repeat)
        result.append(flow.join([q, shared], f"attention joins it with {FIRM}"))
    mask = op.argument("attn_mask", op.argument("attn_bias"))
    if isinstance(mask, Ref):
        _biased(flow, op, flow.of(mask), result)
    flow.count(op, 2 * prod(query.shape) * key.shape[-2], [*heads, depth_v])
    flow.put(op.outputs[0], [*result, None, depth_v])
    for ref in op.outputs[1:]:  # the weights of attention, or their logarithms
        more = len(ref.shape) - len(result)
        beside = more >= 0 and ref.shape[: len(result)] == op.outputs[0].shape[: len(result)]
        flow.put(ref, [*result, *[None] * more] if beside else [None] * len(ref.shape))


def _biased(flow: Flow, op: Op, mask: Labels, heads: Labels) -> None:
    """What is added to the scores of attention: a learnt bias by head goes with the heads."""
    for label in mask[-2:]:
        flow.freeze(label, f"{op.name} takes it for time")
    for back in range(1, len(mask) - 1):
        label = mask[-2 - back]
        if isinstance(label, np.ndarray):
            heads[-back] = flow.join([label, heads[-back]], f"attention joins it with {FIRM}")


def batch_norm(flow: Flow, op: Op) -> None:
    """Each channel by itself; with the batch's own statistics also over batch and space, which stay."""
    inputs, *vectors = [ref for ref in op.refs() if ref.shape != (0,)]
    batch, channels, *rest = flow.of(inputs)
    statistics = bool(op.argument("training")) or op.argument("running_mean") is None
    labels = [flow.of(ref)[0] for ref in vectors]
    for name, role in (("weight", "scale"), ("bias", "shift")):
        if isinstance(vector := op.argument(name), Ref):
            flow.role(flow.of(vector)[0], role)
    if statistics:
        for label in (batch, *rest):
            flow.freeze(label, f"{op.name} normalises over it")
    channels = flow.join([channels, *labels], f"{op.name} joins it with {FIRM}")
    flow.put(op.outputs[0], [batch, channels, *rest])
    for ref in op.outputs[1:]:
        flow.put(ref, [None] * len(ref.shape))


def layer_norm(flow: Flow, op: Op) -> None:
    """Normalises over its last dimensions: none of their positions can go."""
    inputs, count = op.argument("input"), len(op.argument("normalized_shape"))
    labels = flow.of(inputs)
    for label in labels[len(labels) - count :]:
        flow.freeze(label, f"layer_norm in {op.module} normalises over it")
    for name in ("weight", "bias"):
        if isinstance(vector := op.argument(name), Ref):
            for one, other in zip(flow.of(vector), labels[len(labels) - count :], strict=True):
                flow.join([one, other], "layer_norm normalises over it")
    flow.put(op.outputs[0], [*labels[: len(labels) - count], *[None] * count])
    for ref in op.outputs[1:]:
        flow.put(ref, [None] * len(ref.shape))


def group_norm(flow: Flow, op: Op) -> None:
    """Only whole groups can go; with one group none."""
    inputs, groups = op.argument("input"), op.argument("group")
    batch, channels, *rest = flow.of(inputs)
    for label in rest:
        flow.freeze(label, f"group_norm in {op.module} normalises over it")
    vectors = [vector for name in ("weight", "bias") if isinstance(vector := op.argument(name), Ref)]
    channels = flow.join(
        [channels, *(flow.of(vector)[0] for vector in vectors)],
        f"group_norm joins it with {FIRM}",
    )
    if isinstance(channels, np.ndarray):
        if groups == 1:
            flow.freeze(channels, f"group_norm in {op.module} normalises over it")
        else:
            _whole_groups(flow, op, [channels], groups, "num_groups")
    flow.put(op.outputs[0], [batch, channels, *rest])
    for ref in op.outputs[1:]:
        flow.put(ref, [None] * len(ref.shape))


def reduced(flow: Flow, op: Op) -> None:
    """Sums end a dimension; every other reduction over it depends on how many positions there are."""
    source = op.refs()[0]
    labels = flow.of(source)
    dims = op.argument("dim")
    dims = list(range(len(labels))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = [dim % max(len(labels), 1) for dim in dims]
    if op.name not in ("aten.sum", "aten.nansum"):
        for dim in dims:
            flow.freeze(labels[dim], f"{op.name} in {op.module or 'the model'} reduces over it")
    for ref in op.outputs:
        kept = len(ref.shape) == len(labels)
        flow.put(ref, [None if kept and dim in dims else label
                       for dim, label in enumerate(labels) if kept or dim not in dims])  # fmt: skip


def along(flow: Flow, op: Op) -> None:
    """What depends on a whole dimension and gives it back: softmax, cumsum, sort."""
    labels = list(flow.of(op.refs()[0]))
    dim = op.argument("dim", -1)
    dim = 0 if dim is None else dim
    if labels:
        flow.freeze(labels[dim], f"{op.name} in {op.module or 'the model'} goes over it")
        labels[dim] = None
    for ref in op.outputs:
        flow.put(ref, list(labels) if len(ref.shape) == len(labels) else [None] * len(ref.shape))


def glu(flow: Flow, op: Op) -> None:
    """A gate: the two halves of a dimension are cut alike."""
    labels = list(flow.of(op.refs()[0]))
    dim = op.argument("dim", -1)
    if isinstance(label := labels[dim], np.ndarray):
        flow.fold(label, label.size // 2)
        labels[dim] = label[: label.size // 2]
    flow.put(op.outputs[0], labels)


def embedding(flow: Flow, op: Op) -> None:
    """Rows are indexed by the data, columns are features."""
    weight, indices = op.argument("weight"), op.argument("indices")
    words, *rest = flow.of(weight)
    flow.freeze(words, "it is indexed by the data")
    flow.freeze_all(indices, "it is an index")
    for label in rest:
        flow.role(label, "out")
    flow.put(op.outputs[0], [*[None] * len(indices.shape), *rest])


def made(flow: Flow, op: Op) -> None:
    """A new tensor, filled with one value or not at all, in a shape that the code asks for."""
    for ref in op.outputs:
        flow.put(ref, [None if ref.key in flow.tape.written else ANY] * len(ref.shape))


def asked(flow: Flow, op: Op) -> None:
    """A question about a tensor that makes none."""


def recurrent(flow: Flow, op: Op) -> None:
    """LSTM, GRU and plain recurrent layers: a unit is a row of every gate and a column of what reads it.

    Layers and directions share one `hidden_size`, so the same units go from all of them.
    """
    inputs, hidden, flat, _, layers, _, _, both, *_ = op.args
    if not isinstance(inputs, Ref) or not isinstance(flat, list | tuple):
        unknown(flow, op)  # a packed sequence
        return
    gates = {"lstm": 4, "gru": 3}.get(op.name, 1)
    directions = 2 if both else 1
    per = len(flat) // (layers * directions)
    bias = per >= 4
    projected = per in (3, 5)
    cells = flat[0].shape[0] // gates
    units = flow.new(cells)
    out = flow.new(flat[1].shape[1]) if projected else units
    last = flow.of(inputs)[-1]
    reason = f"{op.module or op.name} joins it with {FIRM}"
    for number in range(layers):
        for direction in range(directions):
            part = flat[(number * directions + direction) * per :][:per]
            rows = np.tile(units, gates)
            for ref in part[: 4 if bias else 2]:
                flow.join([flow.of(ref)[0], rows], reason)
            flow.role(flow.of(part[0])[0], "out")
            flow.role(flow.of(part[1])[0], "out")
            flow.contract(flow.of(part[0])[1], last, op)
            flow.contract(flow.of(part[1])[1], out, op)
            flow.role(flow.of(part[0])[1], "in")
            flow.role(flow.of(part[1])[1], "in")
            if projected:
                flow.join([flow.of(part[-1])[0], out], reason)
                flow.contract(flow.of(part[-1])[1], units, op)
                flow.role(flow.of(part[-1])[1], "in")
                flow.role(flow.of(part[-1])[0], "out")
        last = np.concatenate([out] * directions)
    states = hidden if isinstance(hidden, list | tuple) else [hidden]
    for state, label in zip(states, (out, units), strict=False):
        flow.join([flow.of(state)[-1], label], reason)
    steps = prod(inputs.shape[:-1])
    for ref in flat:
        if len(ref.shape) == 2:
            flow.count(op, prod(ref.shape) * steps, flow.of(ref))
    lead = flow.of(inputs)[:-1]
    flow.put(op.outputs[0], [*lead, last])
    for ref, label in zip(op.outputs[1:], (out, units), strict=False):
        flow.put(ref, [*[None] * (len(ref.shape) - 1), label])


def _named(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


POINTWISE = frozenset(
    _named(
        "hardswish hardsigmoid hardtanh relu6 prelu _prelu_kernel native_dropout copy fill dropout mish masked_fill "
        "where rrelu celu selu elu softplus leaky_relu threshold"
    )
)
"""Those that torch does not tag as such."""
SPATIAL = tuple(
    _named(
        "max_pool avg_pool adaptive_avg_pool adaptive_max_pool _adaptive_avg_pool upsample_ _upsample reflection_pad "
        "replication_pad grid_sampler fractional_max_pool lp_pool max_unpool"
    )
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_named("mm addmm bmm baddbmm"), mm),
    **dict.fromkeys(_named("mv addmv dot"), mv),
    **dict.fromkeys(_named("_grouped_mm"), grouped_mm),
    **dict.fromkeys(_named("linear"), linear),
    **dict.fromkeys(_named("convolution _convolution"), convolution),
    **dict.fromkeys(_named("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
                           "_batch_norm_with_update"), batch_norm),
    **dict.fromkeys(_named("native_layer_norm _fused_rms_norm"), layer_norm),
    **dict.fromkeys(_named("native_group_norm"), group_norm),
    **dict.fromkeys(_named("sum nansum mean amax amin max min median var std var_mean std_mean prod norm argmax argmin "
                           "linalg_vector_norm logsumexp any all"), reduced),
    **dict.fromkeys(_named("_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort topk "
                           "argsort kthvalue"), along),
    **dict.fromkeys(_named("glu"), glu),
    **dict.fromkeys(_named("embedding"), embedding),
    **dict.fromkeys(_named("zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like "
                           "empty_like empty_strided new_empty_strided scalar_tensor"), made),
    **dict.fromkeys(_named("_local_scalar_dense is_nonzero item equal sym_size _assert_async "
                                            "_assert_tensor_metadata"), asked),
    **dict.fromkeys(_named("_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
                           "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
                           "_scaled_dot_product_attention_math"), attention),
    **dict.fromkeys(RECURRENT, recurrent),
}  # fmt: skip
