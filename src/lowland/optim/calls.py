"""What a network and its output layer said, call by call; and answering in the network's place.

A network that is not run again has to answer as it would have: to the same inputs, in the same
order, with the same random numbers drawn around it. What cannot be so is said.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.functional import linear

from lowland.optim.rng import RandomState

AGAIN = (
    "loss_fn called the network {} times at w and {} at w+ε: it has to do the same both times, or "
    "use one_forward=False"
)
OTHER_INPUT = (
    "loss_fn gave the network another input at w+ε than at w: draw random numbers by torch, which "
    "repeats them, or before the step; or use one_forward=False"
)


@dataclass
class Run:
    """One run of the output layer.

    Attributes:
        h, z: its input and its output.
        edge: where the gradient by z arrives, whatever is done to z in place afterwards.
        version: of z, which counts such changes.
        autocast: whether it ran under autocast, and to which type.
    """

    h: Tensor
    z: Tensor
    edge: GradientEdge | None
    version: int
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def of(cls, h: Tensor, z: Tensor) -> Run:
        edge = get_gradient_edge(z) if z.requires_grad else None
        kind = h.device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return cls(h, z, edge, _version(z), autocast)

    @property
    def changed(self) -> bool:
        """Whether z was written to."""
        return _version(self.z) != self.version


@dataclass(eq=False)
class Call:
    """One call of the network.

    Attributes:
        given: its arguments.
        output: what it returned.
        runs: of its output layer; one if all is well.
        random: the state of the random numbers when it returned.
        changed: whether the network wrote to what its output layer had returned.
    """

    given: list[Tensor]
    output: Any = None
    runs: list[Run] = field(default_factory=list)
    random: RandomState | None = None
    changed: bool = False


@contextlib.contextmanager
def listening(heard: Mapping[nn.Module, list[Call]], head: nn.Linear) -> Iterator[None]:
    """Keep what a network and its output layer say, for several modules that could be the network.

    Args:
        heard: what each of the modules says goes here.
        head: the output layer.
    """
    layer = head.forward
    under_way: list[Call] = []

    def kept(input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not under_way:
            return layer(input)
        z = layer(input)
        run = Run.of(input, z)
        for call in under_way:
            call.runs.append(run)
        return z

    def listened(forward: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
        def listen(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(*args, **kwargs)
            call = Call(tensors((args, kwargs)))
            under_way.append(call)
            try:
                call.output = forward(*args, **kwargs)
            finally:
                under_way.remove(call)
            call.changed = any(run.changed for run in call.runs)
            call.random = RandomState.now(head.weight.device)
            calls.append(call)
            return call.output

        return listen

    with contextlib.ExitStack() as stack:
        if head not in heard:
            stack.enter_context(replaced(head, kept))
        for body, calls in heard.items():
            stack.enter_context(replaced(body, listened(body.forward, calls)))
        yield


@contextlib.contextmanager
def answering(
    body: nn.Module, calls: list[Call], weight: Tensor, bias: Tensor | None, *, look: bool
) -> Iterator[list[Tensor]]:
    """In place of the network, its output layer with these weights on the features that it had.

    Gives a list of what this layer returns.

    Args:
        body: the network.
        calls: what it said.
        weight, bias: of its output layer.
        look: whether inputs that are other tensors are compared, which waits for the device.
    """
    made: list[Tensor] = []

    def answered(*args: Any, **kwargs: Any) -> Any:
        if len(made) == len(calls):
            raise RuntimeError(AGAIN.format(len(calls), "more often"))
        call = calls[len(made)]
        if not _same(call.given, tensors((args, kwargs)), look):
            raise RuntimeError(OTHER_INPUT)
        (run,) = call.runs
        enabled, dtype = run.autocast
        with torch.autocast(run.h.device.type, dtype, enabled):
            made.append(linear(run.h, weight, bias))
        if call.random is not None:
            call.random.restore()
        return _with(call.output, run.z, made[-1])

    with replaced(body, answered):
        yield made
    if len(made) < len(calls):
        raise RuntimeError(AGAIN.format(len(calls), len(made)))


@contextlib.contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward on this one module; its hooks run as ever."""
    space = vars(module)
    own = space.get("forward")
    try:
        space["forward"] = forward
        yield
    finally:
        if own is None:
            space.pop("forward", None)
        else:
            space["forward"] = own


def behind(values: Iterable[Tensor], cut: Iterable[Any] = ()) -> tuple[set[Any], set[Tensor]]:
    """Which nodes of `cut` the graphs of some tensors come to, and which leaves not through them.

    Cost: the nodes on this side of the cut, one by one.
    """
    barrier, met, leaves = set(cut), set(), set()
    pending = [t.grad_fn for t in values if t.grad_fn is not None]
    seen: set[Any] = set(pending)
    while pending:
        node: Any = pending.pop()
        if node in barrier:
            met.add(node)
            continue
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(leaf)
        new = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(new)
        pending += new
    return met, leaves


def tensors(output: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in tensors(value)]
    if isinstance(output, tuple | list):
        return [t for value in output for t in tensors(value)]
    return []


def _with(output: Any, old: Tensor, new: Tensor) -> Any:
    """The same output with one tensor replaced."""
    if isinstance(output, Tensor):
        return new if output is old else output
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        for key, value in output.items():
            changed[key] = _with(value, old, new)
        return changed
    if isinstance(output, tuple | list):
        values = [_with(value, old, new) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return output


def _same(left: list[Tensor], right: list[Tensor], look: bool) -> bool:
    return len(left) == len(right) and all(map(_alike, left, right, [look] * len(left)))


def _alike(a: Tensor, b: Tensor, look: bool) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    with torch.no_grad():
        return not look or bool(((a == b) | ((a != a) & (b != b))).all())


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
