"""What a model does with one example, as a list of operations: recorded while it runs, not guessed from its source.

Every operation that reaches torch's dispatcher is written down with what it reads and makes, tensors under numbers.
Recurrent layers are one operation. Control flow that depends on the data would make the recording true for this example
only: it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from decoct.errors import TraceError
from decoct.measure import unfused
from decoct.task import call, device_of, first_line, to_device

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
SCALARS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.item", "aten.equal")
TAKEN_OUT = ("tolist", "numpy", "__array__")
"""By which values leave torch; the dispatcher does not see it."""


@dataclass(frozen=True)
class Ref:
    """A tensor on the tape: its number and its shape."""

    key: int
    shape: tuple[int, ...]


@dataclass
class Op:
    """One operation. In `args` and `kwargs` a Ref stands for each tensor.

    name: as torch has it, without overload: ``aten.view``. module: the innermost module in whose forward it ran.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Ref]
    module: str
    maps: dict[Any, Any] = field(default_factory=dict)  # what moving markers through it has shown, see `movement`

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument of a name in the operation's schema, however it was given."""
        if name in self.kwargs:
            return self.kwargs[name]
        for value, declared in zip(self.args, self.function._schema.arguments, strict=False):  # type: ignore[attr-defined]
            if declared.name == name:
                return value
        return default

    def refs(self) -> list[Ref]:
        """The tensors that it reads, in order, also those in lists."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref)]


@dataclass
class Tape:
    """The record of one forward.

    parameters: number -> name, of parameters and buffers; a tied one has one number and its owner's name.
    inputs, outputs: the tensors that the model was given and what it gave back.
    constants: the values of what is computed from neither data nor parameters, and of whole-number buffers.
    written: tensors that began as constants and had data written into them.
    """

    ops: list[Op]
    parameters: dict[int, str]
    shapes: dict[int, tuple[int, ...]]
    inputs: list[Ref]
    outputs: list[Ref]
    constants: dict[int, Tensor]
    written: set[int]


def record(model: nn.Module, example: Any) -> Tape:
    """Run a copy of `model`, in eval mode, on `example` and return what it did.

    Raises TraceError where the model does not run on the example, or where its control flow depends on the data.
    """
    model = plain(model)
    inputs = to_device(example, device_of(model))
    recorder = _Recorder()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        ref = recorder.ref(tensor)
        recorder.parameters.setdefault(ref.key, name)
        if not tensor.is_floating_point():
            recorder.constants[ref.key] = tensor
    given = [recorder.ref(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    recorder.data.update(ref.key for ref in given)
    recorder.decisive.update(
        ref.key for ref, leaf in zip(given, (x for x in tree_leaves(inputs) if isinstance(x, Tensor)), strict=True)
        if leaf.is_floating_point()
    )  # fmt: skip
    recorder.decisive.update(recorder.parameters)
    try:
        with torch.no_grad(), unfused(), recorder.following(model), _Whole(recorder), recorder:
            result = call(model, inputs)
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(f"the model's forward fails on the example: {first_line(error)}") from error
    outputs = [recorder.ref(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not outputs:
        raise TraceError(f"the model gives {type(result).__name__}, no tensor, so nothing shows what it computes")
    return Tape(
        recorder.ops, recorder.parameters, recorder.shapes, given, outputs, recorder.constants, recorder.written
    )


def plain(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parametrized tensors are plain ones of the same name and value."""
    model = deepcopy(model).eval()
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        values = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
        # torch's own way to remove parametrizations takes them from the class, which the original shares.
        module.__class__ = module.__class__.__bases__[0]
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.clone()))
    return model


class _Recorder(TorchDispatchMode):
    """Writes down every operation while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.parameters: dict[int, str] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.constants: dict[int, Tensor] = {}
        self.data: set[int] = set()  # what depends on the inputs
        self.decisive: set[int] = set()  # what depends on parameters or on floating-point inputs
        self.written: set[int] = set()  # constants that data was written into
        self.keys = WeakTensorKeyDictionary()
        self.path = [""]
        self.silent = False

    def ref(self, tensor: Tensor) -> Ref:
        """The number of a tensor, a new one for a new tensor."""
        key = self.keys.get(tensor)
        if key is None:
            key = len(self.shapes)
            self.keys[tensor] = key
        self.shapes[key] = tuple(tensor.shape)
        return Ref(key, tuple(tensor.shape))

    def _read(self, tensor: Tensor) -> Ref:
        """The number of a tensor that is read; one from nowhere (an attribute that is no buffer) is a constant."""
        new = tensor not in self.keys
        ref = self.ref(tensor)
        if new:
            self.constants[ref.key] = tensor
        return ref

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.silent:
            self.note(f"aten.{func._schema.name.removeprefix('aten::')}", func, args, kwargs or {}, result)
        return result

    def note(self, name: str, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Write one operation down."""
        args, kwargs = tree_map_only(Tensor, self._read, (args, kwargs))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        op = Op(name, function, tuple(args), kwargs, [self.ref(tensor) for tensor in made], self.path[-1])
        read = [ref.key for ref in op.refs()]
        if name in SCALARS:
            self.ask(name, read)
        for kind in (self.data, self.decisive):
            if any(key in kind for key in read):
                kind.update(ref.key for ref in op.outputs)
        constant = all(key in self.constants for key in read)
        for ref, tensor in zip(op.outputs, made, strict=True):
            if constant:
                self.constants[ref.key] = tensor
            elif ref.key in self.constants or ref.key in read:
                self._overwrite(tensor)
        self.ops.append(op)

    def ask(self, name: str, read: list[int]) -> None:
        """TraceError where a value that depends on the data is asked for."""
        if any(key in self.data and key in self.decisive for key in read):
            raise TraceError(
                f"data-dependent control flow in {self.path[-1] or 'the model'}: its forward asks for the value of a "
                f"tensor ({name}), so other data may take another way; rewrite it with torch.where"
            )

    def _overwrite(self, tensor: Tensor) -> None:
        """Data has been written into a tensor: it and what it is a view of are no constants any more."""
        for each in (tensor, tensor._base):
            if each is not None and self.constants.pop(self.ref(each).key, None) is not None:
                self.written.add(self.ref(each).key)

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the module that runs."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                before = module.register_forward_pre_hook(lambda *_, name=name: self.path.append(name))
                after = module.register_forward_hook(self._leave, always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _leave(self, *_: Any) -> None:
        self.path.pop()


class _Whole(TorchFunctionMode):
    """Makes one operation of a recurrent layer, however torch computes it, and sees values leave torch."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in TAKEN_OUT:
            self.recorder.ask(name, [self.recorder.keys.get(args[0], -1)])
        if name not in RECURRENT:
            return func(*args, **(kwargs or {}))
        self.recorder.silent = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.recorder.silent = False
        self.recorder.note(name, func, args, kwargs or {}, result)
        return result
