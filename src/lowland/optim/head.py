"""ε on the output layer alone, with one forward of the network.

The layer's input h and its output z = h·Wᵀ + b are kept from the forward at w. The gradient for ε
needs the loss and the layer alone; for the loss at w+ε, the loss function runs again and finds, in
place of the network, the layer at W+ε on the same h. One backward goes through that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowland.core.autocast import own_precision
from lowland.core.errors import InputError
from lowland.core.selection import output_layer
from lowland.optim.calls import Call, answering, behind, listening, tensors
from lowland.optim.displacement import destination
from lowland.optim.gradient import Gradient, Part
from lowland.optim.plan import Evaluate, Evaluation, Forward, Program, Update
from lowland.optim.rng import RandomState
from lowland.optim.statistics import is_compiled
from lowland.optim.step import Step

REFUSED = "one forward is not possible here: {}"
COMPILED = "the network is compiled; pass the network as it was before, or one_forward=False"
SHARDED = "parameters are sharded, so the layer cannot be run by itself; use one_forward=False"
MICRO = "batches= has one ε for all micro-batches, which needs two forwards; use batch="
LOCAL = "perturbation='local' takes two passes unless one_forward=True says otherwise"
LAYER = (
    "the output layer {} is a {} that does not compute h·Wᵀ + b as nn.Linear does; use "
    "one_forward=False"
)
HOOKED = (
    "a parameter of the output layer {} has hooks on its gradient, which one forward does not "
    "call; use one_forward=False"
)
POLICY = (
    "bn_second={!r} makes the pass at w+ε another one than that at w; use 'frozen', or "
    "one_forward=False"
)
TIED = (
    "the weight of the output layer {} is used elsewhere in the network too (tied embeddings), "
    "where it would not move; use LogitsSAM, which means it so, or one_forward=False"
)
ELSEWHERE = (
    "the weight of the output layer is used elsewhere in the network too (tied embeddings), and "
    "two passes would move it there; one forward would not, but: {}"
)
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
BESIDE = (
    "the loss depends on the output layer {} in other ways than by the logits of the network (a "
    "penalty on its weight, a call of the layer alone); use one_forward=False"
)
INSIDE = (
    "loss_fn differentiates by the network's input (for adversarial examples, say), which needs "
    "the network itself; do that before the step, or use one_forward=False"
)
UNTRACED = (
    "the graph of the loss does not go through the logits (is the whole network inside "
    "torch.utils.checkpoint? Put parts of it there); or use one_forward=False"
)
MORE = (
    "the selection moves more than the output layer, which one forward cannot: give "
    "Perturbation(OutputLayer(...)) with the same name, or another plan"
)
KEPT = (
    "the loss uses logits that were kept aside at w (by a hook, say): let it use what the network "
    "returns, or use one_forward=False"
)


@dataclass(eq=False)
class HeadPlan:
    """[w, w+ε] for an ε on the output layer alone, by one forward where that can be.

    Where it once could not be, it is not tried again.

    Attributes:
        model: the network; None is refused by the selection.
        head: name of the output layer; None takes the last ``nn.Linear``.
        one_forward: True refuses what would take two; None takes them silently; False always does.
        alone: W+ε is for the layer's use alone, even if W is used elsewhere too. Otherwise that is
            what one forward cannot do.
        hindered: why it could not be; empty if it could.
    """

    model: nn.Module | None
    head: str | None = None
    one_forward: bool | None = None
    alone: bool = False
    hindered: str = ""
    keeps_gradient: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ()

    @property
    def splits(self) -> bool:
        return bool(self.one_forward)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        model = None if self.one_forward is False else self.model
        modules = [] if model is None else list(model.modules())
        head = None if model is None else output_layer(model, self.head)
        tied = head is not None and _shared(head, modules)
        reason = self._hindrance(step, modules) or self._of_layer(step, head, tied)
        if reason:
            self._refuse(reason, tied)
            second = yield Evaluate(at=step.perturb((yield Evaluate(ascent=True))))
            yield Update(second.gradient)
            return
        assert model is not None
        assert head is not None
        passes = OneForward(model, head, step, tied=tied)
        first = yield Evaluate(around=passes)
        if passes.hindrance:  # what came out is the gradient at w
            self._refuse(passes.hindrance, tied)
            self.hindered = passes.hindrance
            first = yield Evaluate(at=step.perturb(first))
        yield Update(first.gradient)

    def _refuse(self, reason: str, tied: bool) -> None:
        if self.one_forward:
            raise InputError(REFUSED.format(reason))
        if self.one_forward is None and self.alone and tied:
            raise InputError(ELSEWHERE.format(reason))

    def _hindrance(self, step: Step, modules: list[nn.Module]) -> str:
        """Why one forward is not even tried."""
        if self.one_forward is False or self.model is None:
            return "one_forward=False"
        if self.hindered and not self.one_forward:
            return self.hindered
        if step.local and not self.one_forward:
            # whether gradients are to be exchanged has to be known beforehand
            return LOCAL
        if any(map(is_compiled, modules)):
            return COMPILED
        if step.split:
            return SHARDED
        if step.examples is None:
            return "it needs step(loss_fn=, batch=)"
        if step.micro_batches is not None:
            return MICRO
        if step.changed_statistics:
            return POLICY.format(step.changed_statistics)
        return ""

    def _of_layer(self, step: Step, head: nn.Linear | None, tied: bool) -> str:
        """What is in the way in the output layer itself."""
        assert self.model is not None
        assert head is not None
        own = [head.weight, *([] if head.bias is None else [head.bias])]
        if not step.moves_only(own):
            raise InputError(MORE)
        if type(head).forward is not nn.Linear.forward or "forward" in vars(head):
            return LAYER.format(_name(head, self.model), type(head).__name__)
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in own):
            return HOOKED.format(_name(head, self.model))
        return TIED.format(_name(head, self.model)) if tied and not self.alone else ""


class OneForward:
    """The loss at w, then the loss at w+ε on the same features.

    Args:
        model: the network.
        head: its output layer.
        step: the step in progress.
        tied: whether its weight is used elsewhere too, which is left out of account.

    Attributes:
        hindrance: why the loss at w is all that there is, if so.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, step: Step, tied: bool = False) -> None:
        self._head, self._step, self._tied = head, step, tied
        self._bodies, self._body = _wrapped(model, head), model
        self.hindrance = ""

    def __call__(self, forward: Forward, share: Callable[[], float]) -> tuple[Tensor, Tensor]:
        heard: dict[nn.Module, list[Call]] = {body: [] for body in self._bodies}
        before = RandomState.now(self._head.weight.device)
        with listening(heard, self._head):
            losses = forward(False)
        self._body, calls = next(((b, c) for b, c in heard.items() if c), (self._head, []))
        self.hindrance = self._look(calls, losses)
        if self.hindrance:
            return losses, losses
        with own_precision(losses.device.type):
            gradient = self._gradient(losses.mean() * share(), calls)
        at_w = losses.detach()
        del losses  # its graph, down to the logits, is not needed any more
        with torch.no_grad():
            examples = self._step.examples or 1
            move = self._step.perturb(Evaluation(self._step.shared(gradient), None, examples))
            there = destination(move)
        if self._step.scaling is not None:  # no other pass would show it
            self._step.scaling.report(self._step.found)
        losses = self._at(there, forward, calls, before)
        self._step.perturbed_loss.add(losses.mean(), 1.0)
        return at_w, losses

    def _at(
        self, there: dict[Tensor, Tensor], forward: Forward, calls: list[Call], before: RandomState
    ) -> Tensor:
        """The losses at w+ε: with the random numbers of those at w."""
        step, head = self._step, self._head
        weight, bias = (_at(p, there[p]) if p in there else p for p in (head.weight, head.bias))
        look = step.reads_freely or step.count == step.hyper["start"]
        before.restore()
        with step.beside(), answering(self._body, calls, weight, bias, look=look) as made:
            losses = forward(True)
        old = {edge.node for edge in _edges(calls)}
        if behind([losses], [*old, *(z.grad_fn for z in made)])[0] & old:
            raise RuntimeError(REFUSED.format(KEPT))
        return losses

    def _gradient(self, loss: Tensor, calls: list[Call]) -> Gradient:
        """∂L/∂W = Σ (∂L/∂z)ᵀ·h and ∂L/∂b = Σ ∂L/∂z, over the calls and all positions."""
        scaling = self._step.scaling
        if scaling is not None:
            loss = scaling.scaler.scale(loss)
        inputs = [call.runs[0].h for call in calls if call.runs[0].edge is not None]
        made = torch.autograd.grad(loss, _edges(calls), retain_graph=True, allow_unused=True)
        weight, bias = self._head.weight, self._head.bias
        with torch.no_grad():
            down = [
                (g.reshape(-1, g.shape[-1]), h.to(g.dtype).reshape(-1, h.shape[-1]))
                for g, h in zip(made, inputs, strict=True)
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

    def _look(self, calls: list[Call], losses: Tensor) -> str:
        """Why the network cannot be replaced by its output layer; empty if it can."""
        if not calls:
            return UNSEEN
        if any(len(call.runs) != 1 for call in calls):
            ran = sum(len(call.runs) for call in calls)
            return OTHER.format(_name(self._head, self._body), ran, len(calls))
        for call in calls:
            (run,) = call.runs
            returned = tensors(call.output)
            others = [t for t in returned if t is not run.z]
            if call.changed or len(others) == len(returned):
                return CHANGED.format(_name(self._head, self._body))
            if run.edge is not None and behind(others, [run.edge.node])[0]:
                return DEPENDS
        edges = _edges(calls)
        if losses.requires_grad and not edges:
            return UNTRACED
        own = {p for p in (self._head.weight, self._head.bias) if p is not None}
        met, leaves = behind([losses], [edge.node for edge in edges])
        if losses.requires_grad and not met:
            return UNTRACED
        # of tied weights nothing else can be told here than that they are
        if leaves & own and not self._tied:
            return BESIDE.format(_name(self._head, self._body))
        inside = [c for c in calls if c.runs[0].edge is not None and c.runs[0].edge.node not in met]
        return INSIDE if any(t.requires_grad for c in inside for t in c.given) else ""


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


def _edges(calls: list[Call]) -> list[Any]:
    """Where the gradients by the logits arrive, of the calls that have any."""
    return [call.runs[0].edge for call in calls if call.runs[0].edge is not None]


def _name(head: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is head) or "itself"


def _shared(head: nn.Module, modules: list[nn.Module]) -> bool:
    """Whether others of the modules have a parameter of the output layer."""
    own = set(map(id, head._parameters.values())) - {id(None)}
    return any(id(p) in own for m in modules if m is not head for p in m._parameters.values())


def _total(summands: list[Tensor]) -> Tensor:
    return summands[0] if len(summands) == 1 else torch.stack(summands).sum(0)


def _wrapped(model: nn.Module, head: nn.Module) -> list[nn.Module]:
    """What may be the network without wrappers, innermost first: all of them hold everything.

    Not all of them need to run: a list of layers is one.
    """
    held = {*model.parameters(), *model.buffers()}
    for child in model.children():
        if child is head or not any(m is head for m in child.modules()):
            continue
        if {*child.parameters(), *child.buffers()} >= held:
            return [*_wrapped(child, head), model]
    return [model]
