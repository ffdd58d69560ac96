"""The step as a program: a generator of evaluations that ends in an update.

A plan says at which weights and on which part of the batch the gradient is wanted; the engine
supplies it, whichever way the user called (closure, context, two steps, batch). The default plan
is [w, w+ε]; another method writes its own few lines::

    def __call__(self, step):
        first = yield Evaluate(ascent=True)                   # gradient at w, for ε alone
        second = yield Evaluate(at=step.perturb(first))       # gradient at w+ε
        yield Update(second.gradient)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from lowland.optim.displacement import Move
from lowland.optim.gradient import Gradient

if TYPE_CHECKING:
    from lowland.optim.step import Step


@dataclass(frozen=True)
class Evaluate:
    """A request for a gradient.

    Attributes:
        at: where: None is w, otherwise what `Step.perturb` returned.
        part: which examples of the batch (a slice or an index tensor), or the number of one of its
            micro-batches; None is all of them.
        ascent: the gradient makes ε and nothing else. With ``perturbation="local"`` the devices do
            not exchange it.
    """

    at: Move | None = None
    part: slice | Tensor | int | None = None
    ascent: bool = False


@dataclass
class Evaluation:
    """The answer: the gradient of the mean loss over the part, and the loss itself."""

    gradient: Gradient
    loss: Any = None
    examples: float = 1


@dataclass(frozen=True)
class Update:
    """The end of a plan: the gradient u that the base optimizer descends along, at w."""

    gradient: Gradient


Program = Generator[Evaluate | Update, Evaluation, None]


class Combine(Protocol):
    """What is descended: (g, g̃, step) → u."""

    def __call__(self, g: Gradient, g_perturbed: Gradient, step: Step, /) -> Gradient: ...


class LossTerm(Protocol):
    """A term or wrapper of the loss: per-example losses in, per-example losses out.

    Applied in every evaluation of ``step(loss_fn=, batch=)``, where the engine sees the losses.
    """

    def __call__(self, losses: Tensor, batch: Any, params: Sequence[Tensor], /) -> Tensor: ...


class Plan(Protocol):
    """The program of one step, and what it asks of the caller.

    Attributes:
        splits: whether it evaluates parts of the batch; then only ``step(loss_fn=, batch=)`` works.
        keeps_gradient: whether the gradient at w is needed after the second pass.
        defaults: names of its hyperparameters, which live in the parameter groups.
    """

    splits: ClassVar[bool]
    defaults: ClassVar[tuple[str, ...]]

    @property
    def keeps_gradient(self) -> bool: ...

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        """Whether the step number `count` has a pass at w+ε."""
        ...

    def __call__(self, step: Step) -> Program: ...


@dataclass(frozen=True)
class TwoPass:
    """[w, w+ε], then u = g̃, or what `combine` makes of (g, g̃)."""

    combine: Combine | None = None
    splits: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ()

    @property
    def keeps_gradient(self) -> bool:
        return self.combine is not None

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        # No name is bound to the first evaluation: its gradient can go before the second pass.
        ascent = self.combine is None
        second = yield Evaluate(at=step.perturb((yield Evaluate(ascent=ascent))))
        u = second.gradient
        yield Update(u if self.combine is None else self.combine(step.gradient(), u, step))


def plain_step(step: Step) -> Program:
    """The base optimizer's own step: what runs where nothing is to be perturbed."""
    first = yield Evaluate()
    yield Update(first.gradient)
