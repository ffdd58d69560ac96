"""ε on the output layer alone, with one forward of the network.

The layer's input h and its output z = h·Wᵀ + b are kept from the forward at w. The gradient for ε
needs the loss and the layer alone; for the loss at w+ε, the loss function runs again and finds, in
place of the network, the layer at W+ε on the same h. One backward goes through that.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lowland.core.errors import InputError
from lowland.core.selection import output_layer
from lowland.optim.displacement import destination
from lowland.optim.gradient import Gradient, Part
from lowland.optim.plan import Evaluate, Evaluation, Program, Update
from lowland.optim.statistics import is_compiled
from lowland.optim.step import Step

REFUSED = "one forward is not possible here: {}"
COMPILED = "the network is compiled; pass the network as it was before, or one_forward=False"
SHARDED = "parameters are sharded, so the layer cannot be run by itself; use one_forward=False"
MICRO = "batches= has one ε for all micro-batches, which needs two forwards; use batch="
UNSEEN = (
    "the network of model= did not run as it is: pass the one that loss_fn runs, not compiled, or "
    "one_forward=False"
)
OTHER = (
    "the output layer {} has to run once in each call of the network ({} calls of it in {} of the "
    "network); name it by head=, or use one_forward=False"
)
CHANGED = (
    "what the network returns is not what its output layer {} returns; let it return the logits as "
    "they are and compute the rest in loss_fn, or use one_forward=False"
)
DEPENDS = (
    "the network returns more that depends on the logits (a loss, say); compute that in loss_fn, "
    "or use one_forward=False"
)
AGAIN = (
    "loss_fn called the network {} times at w and more often at w+ε: it has to do the same both "
    "times"
)


@dataclass
class Call:
    """One call of the network.

    Attributes:
        output: what it returned.
        inputs, logits: h and z of its output layer, one of each if all is well.
    """

    output: Any = None
    inputs: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class HeadPlan:
    """[w, w+ε] for an ε on the output layer alone, by one forward where that can be.

    Where it once could not be, it is not tried again.

    Attributes:
        model: the network; None is refused by the selection.
        head: name of the output layer; None takes the last ``nn.Linear``.
        one_forward: True refuses what would take two; None takes them silently; False always does.
        hindered: whether it could not be.
    """

    model: nn.Module | None
    head: str | None = None
    one_forward: bool | None = None
    hindered: bool = False
    keeps_gradient: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ()

    @property
    def splits(self) -> bool:
        return bool(self.one_forward)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        # ε of each device's own needs to know beforehand whether gradients are to be exchanged
        wanted = self.one_forward or not (self.one_forward is False or self.hindered or step.local)
        if not wanted or step.examples is None or self._hindered(step):
            second = yield Evaluate(at=step.perturb((yield Evaluate(ascent=True))))
            yield Update(second.gradient)
            return
        assert self.model is not None
        passes = OneForward(self.model, output_layer(self.model, self.head), step)
        first = yield Evaluate(around=passes)
        if passes.hindrance and self.one_forward:
            raise InputError(REFUSED.format(passes.hindrance))
        if passes.hindrance:  # what came out is the gradient at w
            self.hindered = True
            first = yield Evaluate(at=step.perturb(first))
        yield Update(first.gradient)

    def _hindered(self, step: Step) -> bool:
        reason = ""
        if self.model is not None and any(map(is_compiled, self.model.modules())):
            reason = COMPILED
        elif step.split:
            reason = SHARDED
        elif step.micro_batches is not None:
            reason = MICRO
        if reason and self.one_forward:
            raise InputError(REFUSED.format(reason))
        return bool(reason)


class OneForward:
    """The loss at w, then the loss at w+ε on the same features.

    Args:
        model: the network.
        head: its output layer.
        step: the step in progress.

    Attributes:
        hindrance: why the loss at w is all that there is, if so.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, step: Step) -> None:
        self._head, self._step = head, step
        self._body = _innermost(model, head)
        self.hindrance = ""

    def __call__(
        self, forward: Callable[[], Tensor], share: Callable[[], float]
    ) -> tuple[Tensor, Tensor]:
        calls: list[Call] = []
        with self._listening(calls):
            losses = forward()
        self.hindrance = self._look(calls)
        if self.hindrance:
            return losses, losses
        gradient = self._gradient(losses.mean() * share(), calls)
        at_w = losses.detach()
        del losses  # its graph, down to the logits, is not needed any more
        with torch.no_grad():
            examples = self._step.examples or 1
            move = self._step.perturb(Evaluation(self._step.shared(gradient), None, examples))
            there = destination(move)
        with self._answering(calls, there):
            losses = forward()
        self._step.perturbed_loss.add(losses.mean(), 1.0)
        return at_w, losses

    def _gradient(self, loss: Tensor, calls: list[Call]) -> Gradient:
        """∂L/∂W = Σ (∂L/∂z)ᵀ·h and ∂L/∂b = Σ ∂L/∂z, over the calls and all positions."""
        held = [(call.inputs[0], call.logits[0]) for call in calls if call.logits[0].requires_grad]
        scaling = self._step.scaling
        if scaling is not None:
            loss = scaling.scaler.scale(loss)
        made = torch.autograd.grad(loss, [z for _, z in held], retain_graph=True, allow_unused=True)
        weight, bias = self._head.weight, self._head.bias
        with torch.no_grad():
            down = [
                (g.reshape(-1, g.shape[-1]), h.to(g.dtype).reshape(-1, h.shape[-1]))
                for g, (h, _) in zip(made, held, strict=True)
                if g is not None
            ]
            found: dict[Tensor, Tensor] = {}
            if down:
                found[weight] = _total([(g.T @ h).to(weight.dtype) for g, h in down])
            if down and bias is not None:
                found[bias] = _total([g.sum(0).to(bias.dtype) for g, _ in down])
            if scaling is not None:
                unit = scaling.scaler.scale(torch.ones((), device=weight.device))
                found = {p: (t / unit).to(p.dtype) for p, t in found.items()}
        parts = []
        for group in self._step.groups:
            params = [p for p in group["params"] if p.requires_grad and found.get(p) is not None]
            parts.append(Part(group, params, [found[p] for p in params]))
        return Gradient([part for part in parts if part.params])

    # Listening and answering

    @contextlib.contextmanager
    def _listening(self, calls: list[Call]) -> Iterator[None]:
        """Keep what the network and its output layer say."""
        forward = self._body.forward

        def listened(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(*args, **kwargs)
            call = Call()

            def keep(_: nn.Module, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
                call.inputs.append(args[0] if args else kwargs["input"])
                call.logits.append(out)

            hook = self._head.register_forward_hook(keep, with_kwargs=True)
            try:
                call.output = forward(*args, **kwargs)
            finally:
                hook.remove()
            calls.append(call)
            return call.output

        with _replaced(self._body, listened):
            yield

    @contextlib.contextmanager
    def _answering(self, calls: list[Call], there: Mapping[Tensor, Tensor]) -> Iterator[None]:
        """In place of the network, its output layer at w+ε on the features that it had."""
        rest = iter(calls)
        own = self._head.weight, self._head.bias
        weight, bias = (_at(p, there[p]) if p in there else p for p in own)

        def answered(*args: Any, **kwargs: Any) -> Any:
            call = next(rest, None)
            if call is None:
                raise RuntimeError(AGAIN.format(len(calls)))
            return _with(call.output, call.logits[0], linear(call.inputs[0], weight, bias))

        with _replaced(self._body, answered):
            yield

    def _look(self, calls: list[Call]) -> str:
        """Why the network cannot be replaced by its output layer; empty if it can."""
        name = next(k for k, m in self._body.named_modules() if m is self._head) or "itself"
        ran = sum(len(call.logits) for call in calls)
        if not calls:
            return UNSEEN
        if any(len(call.logits) != 1 for call in calls):
            return OTHER.format(name, ran, len(calls))
        for call in calls:
            z = call.logits[0]
            others = [t for t in _tensors(call.output) if t is not z]
            if len(others) == len(_tensors(call.output)):
                return CHANGED.format(name)
            others = [t for t in others if t.requires_grad]
            if z.requires_grad and any(_depends(t, z) for t in others):
                return DEPENDS
        return ""


class _At(torch.autograd.Function):
    """Other values in place of a parameter, which has the gradient."""

    @staticmethod
    def forward(ctx: Any, param: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def _at(param: Tensor, value: Tensor) -> Tensor:
    out: Tensor = _At.apply(param, value)  # type: ignore[no-untyped-call]
    return out


def _total(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors).sum(0)


def _innermost(model: nn.Module, head: nn.Module) -> nn.Module:
    """The network without wrappers: the innermost module that holds everything, head included."""
    held = {*model.parameters(), *model.buffers()}
    for child in model.children():
        inside = {*child.parameters(), *child.buffers()}
        if inside >= held and any(m is head for m in child.modules()) and child is not head:
            return _innermost(child, head)
    return model


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward on this one module; its hooks run as ever."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def _depends(tensor: Tensor, on: Tensor) -> bool:
    found = torch.autograd.grad(tensor.sum(), on, retain_graph=True, allow_unused=True)
    return found[0] is not None


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in _tensors(value)]
    if isinstance(output, tuple | list):
        return [t for value in output for t in _tensors(value)]
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
