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

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from lowland.core.errors import InputError
from lowland.optim.displacement import Move
from lowland.optim.gradient import Gradient

if TYPE_CHECKING:
    from lowland.optim.perturbation import Perturbation
    from lowland.optim.step import Step


ONE_BATCH = (
    "this method compares the examples of a batch with each other: give them as one batch=, not "
    "as batches="
)
PER_EXAMPLE = (
    "{} needs a loss for every example, and loss_fn returns their mean: let it return the losses, "
    "shape (n,) (reduction='none' in torch's loss functions)"
)

Forward = Callable[[bool], Tensor]
"""Runs the loss function on the batch, told whether that is at w+ε; returns the losses."""

Choose = Callable[[Tensor], Tensor]
"""From losses, one per example, to what is made of them."""


class AroundForward(Protocol):
    """What a plan does around the forward of one evaluation.

    Called with a `Forward`, which may be called more than once, and with the factor by which losses
    are weighed among devices (known after a forward). Returns the losses at w and those to be
    differentiated.
    """

    def __call__(
        self, forward: Forward, share: Callable[[], float], /
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Evaluate:
    """A request for a gradient, or for losses.

    All but `at` and `ascent` need ``step(loss_fn=, batch=)``: a plan that asks for more `splits`.

    Attributes:
        at: where: None is w, otherwise what `Step.perturb` returned.
        part: which examples of the batch (a slice or an index tensor), or the number of one of its
            micro-batches, or both, as (number, examples of it); None is all of them.
        ascent: the gradient makes ε and nothing else. With ``perturbation="local"`` the devices do
            not exchange it.
        gradient: False asks for losses alone: one forward, nothing kept for a backward.
        weigh: weights of the examples, from their losses (detached): Σ weight·loss is
            differentiated in place of the mean.
        choose: indices of the examples to differentiate, from the losses of all of them, for which
            there is a forward of its own; both at the same weights.
        data: batches to take in place of the step's own, one after the other.
        frozen: running statistics do not move, at w either.
        for_w: a pass away from w that stands for the one at w: running statistics move.
        only: parameters that get gradients; the backward stops below the lowest of them.
        again: under ``replay_rng``, with the random numbers of the first evaluation; so are all
            evaluations away from w.
        term: a loss term of this evaluation alone, after the optimizer's own.
        outputs: the answer has what the loss function returns beside the losses.
        around: in place of one forward; not with micro-batches.
    """

    at: Move | None = None
    part: slice | Tensor | int | tuple[int, slice | Tensor] | None = None
    ascent: bool = False
    gradient: bool = True
    weigh: Choose | None = None
    choose: Choose | None = None
    data: Iterable[Any] | None = None
    frozen: bool = False
    for_w: bool = False
    only: Collection[Tensor] | None = None
    again: bool = False
    term: LossTerm | None = None
    outputs: bool = False
    around: AroundForward | None = None


@dataclass
class Evaluation:
    """The answer.

    Attributes:
        gradient: of the mean loss over the part; empty if none was asked for.
        loss: the mean loss, as the loss function gives it.
        examples: how many there were.
        losses: the losses of the examples, shape (n,), detached, where the loss function gives
            them one by one.
        outputs: where they were asked for, what the loss function returned beside the losses of
            each micro-batch, detached if a tensor.
    """

    gradient: Gradient
    loss: Any = None
    examples: float = 1
    losses: Tensor | None = None
    outputs: Sequence[Any] = ()

    def each(self, who: str) -> Tensor:
        """The losses of the examples.

        Raises:
            InputError: the loss function gives their mean alone.
        """
        if self.losses is None:
            raise InputError(PER_EXAMPLE.format(who))
        return self.losses


@dataclass(frozen=True)
class Update:
    """The end of a plan.

    Attributes:
        gradient: u, which the base optimizer descends along, at w.
        drift: what w moves against besides, times the group's step size, after the base's step.
    """

    gradient: Gradient
    drift: Gradient | None = None


Program = Generator[Evaluate | Update, Evaluation, None]


class Combine(Protocol):
    """What is descended: (g, g̃, step) → u."""

    def __call__(self, g: Gradient, g_perturbed: Gradient, step: Step, /) -> Gradient: ...


@dataclass(frozen=True)
class Pass:
    """What a loss term may know of the evaluation that it is part of.

    Attributes:
        batch: the arguments of the loss function: this part of the batch.
        params: the optimizer's parameters that are trained.
        outputs: what the loss function returned beside the losses; None if nothing.
        step: how many steps came before.
        away: whether the weights are w+ε.
        radius: ρ of the first parameter group in this step, its schedule included; 0 where the
            method does not act, −ρ where the objective is maximized: what is added to the losses
            times it is a penalty either way.
        number: which of the micro-batches it is.
    """

    batch: Any
    params: Sequence[Tensor]
    outputs: Any = None
    step: int = 0
    away: bool = False
    radius: float = 0.0
    number: int = 0


class LossTerm(Protocol):
    """A term or wrapper of the loss: per-example losses in, per-example losses out.

    Applied in every evaluation of ``step(loss_fn=, batch=)``, where the engine sees the losses. A
    loss function that returns (losses, outputs) lets terms have the outputs.

    A term that differentiates the losses itself, by ``torch.autograd.grad``, says so with an
    attribute ``second_derivatives = True``: where ρ is not 0 the network then runs in kernels that
    can be differentiated twice, and without reentrant checkpoints, which do not let it.
    """

    def __call__(self, losses: Tensor, at: Pass, /) -> Tensor: ...


class Plan(Protocol):
    """The program of one step, and what it asks of the caller.

    Attributes:
        splits: whether it evaluates parts of the batch, or needs the losses of its examples; then
            only ``step(loss_fn=, batch=)`` works.
        needs_closure: whether it makes other passes than [w, w+ε], so that the optimizer has to
            make them itself. May be left out: False.
        slots: stages what a step leaves in the state, in any values: places for distributed
            checkpoints. May be left out where the default program shows it.
        keeps_gradient: whether the gradient at w is needed after the second pass.
        draws_tensors: whether other tensors move in every step, so that no copy of those that
            moved before is kept. May be left out: False.
        defaults: names of its hyperparameters, which live in the parameter groups.
        per_group: those of them in which groups may differ. May be left out: none.
        asks: what a caller who makes the passes himself is told, where it splits. May be left out.
        check: raises `InputError` where a `Perturbation` does not go with it. May be left out.
        unperturbed: the program of a step in which the method does not act (ρ = 0, say). May be
            left out: `plain_step`.
    """

    defaults: ClassVar[tuple[str, ...]]

    @property
    def splits(self) -> bool: ...

    @property
    def keeps_gradient(self) -> bool: ...

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        """Whether the step number `count` has a pass at w+ε."""
        ...

    def __call__(self, step: Step) -> Program: ...


def shared_names(plan: Plan) -> list[str]:
    """Names of the hyperparameters that belong to the step as a whole."""
    names = ("start", "end", "every", *plan.defaults, *getattr(plan, "common", ()))
    return [name for name in names if name not in getattr(plan, "per_group", ())]


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


def no_epsilon(rule: Perturbation) -> None:
    """The `check` of plans without an ε.

    Raises:
        InputError: one is asked for.
    """
    rule.check_unused("this method has no ε")


@dataclass(frozen=True)
class OnePass:
    """[w]: what the method does is in its loss terms."""

    check = staticmethod(no_epsilon)

    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ()

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return False

    def __call__(self, step: Step) -> Program:
        return plain_step(step)


def plain_step(step: Step) -> Program:
    """The base optimizer's own step: what runs where nothing is to be perturbed."""
    first = yield Evaluate()
    yield Update(first.gradient)
