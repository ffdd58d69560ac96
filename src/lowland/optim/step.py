"""One step in progress: what a plan may ask of the engine, and what it leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.perturbation import (
    global_norm,
    inner_product,
    mark_non_finite,
    non_finite_flag,
    tensor_norms,
)
from lowland.core.sharding import local, placed_like
from lowland.optim.ascent import Ascent, wide_type
from lowland.optim.displacement import Move, Shift
from lowland.optim.gradient import Gradient, Group, Part, WeightedMean, remembered
from lowland.optim.origin import settle
from lowland.optim.plan import ONE_BATCH
from lowland.optim.record import MeanLoss, StepRecord
from lowland.optim.rng import counter_based
from lowland.optim.scaling import Scaling
from lowland.optim.transforms import State

if TYPE_CHECKING:
    from lowland.optim.engine import Engine
    from lowland.optim.plan import Evaluation


@dataclass(frozen=True)
class Write:
    """A change of the per-parameter state: the whole entry, or some rows of it."""

    param: Tensor
    key: str
    value: Tensor
    rows: tuple[Tensor | int, ...] | None = None

    def into(self, state: State) -> None:
        """Make it."""
        if self.rows is None:
            state[self.param][self.key] = self.value
        else:
            state[self.param][self.key][self.rows] = self.value


RANDOM_SHARDS = (
    "this method moves the weights in random directions, which are not drawn over shards: use DDP, "
    "or another method"
)


def _random(param: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    out = torch.empty_like(param, memory_format=torch.preserve_format, requires_grad=False)
    if kind == "normal":
        return out.normal_(generator=generator)
    if kind == "uniform":
        return out.uniform_(-1, 1, generator=generator)
    return out.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


class Step:
    """One optimizer step while it runs.

    Attributes:
        factor: what the schedule makes of ρ.
        count: how many steps came before.
        hyper: the hyperparameters of the first parameter group.
        examples: the number of examples of the batch, where the engine has it.
        micro_batches: into how many parts the caller has split it, where he has.
        sizes: the numbers of examples of those parts, or of the one batch.
        scaling: the gradient scaler of this step, if there is one.
        found: 1 once anything was found not to be finite, on the device; else 0.
        bad: the same, where the host already knows.
    """

    def __init__(
        self, engine: Engine, factor: float, examples: int | None, scaling: Scaling | None = None
    ) -> None:
        self._engine, self.factor = engine, factor
        self.hyper: Group = engine.groups[0]
        self.count: int = self.hyper["sam_step"]
        self.examples, self.scaling = examples, scaling
        self.micro_batches: int | None = None
        self.sizes: Sequence[int] = ()
        self.found = non_finite_flag(engine.device)
        self.bad = False
        self.loss, self.perturbed_loss = MeanLoss(), MeanLoss()
        self.second = WeightedMean()
        self._first = WeightedMean()
        self._norm: Tensor | None = None
        self._size: Tensor | None = None
        self._staged: list[tuple[str, Gradient, bool]] = []
        self._rows: list[Write] = []
        self._hypers: dict[str, Any] = {}

    @property
    def state(self) -> State:
        """Per-parameter state; to change it, `stage` the new tensors."""
        return self._engine.state

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm that has scaled ε, of the last part; None before, or without a second pass."""
        return self._norm

    @property
    def perturbation_norm(self) -> Tensor | None:
        """The norm of ε in the metric, likewise."""
        return self._size

    def gradient(self) -> Gradient:
        """g: the example-weighted mean of the gradients at w that this step perturbed along."""
        return self._first.value()

    def stage(self, key: str, new: Gradient, *, first: bool = False) -> None:
        """Write ``state[p][key]`` for every parameter of `new` once the step has been taken.

        Args:
            key: the entry.
            new: its values.
            first: where there is no entry yet, write also if the step is skipped on the device,
                for values that do not come from the gradient; otherwise that leaves 0.
        """
        self._staged.append((key, new, first))

    def stage_rows(self, write: Write) -> None:
        """Write some rows of an entry once the step has been taken.

        Such an entry has a shape of its own, and is that of the first parameter.
        """
        self._rows.append(write)

    def stage_hyper(self, key: str, value: Any) -> None:
        """Write ``group[key]`` for every parameter group once the step has been taken."""
        self._hypers[key] = value

    def perturb(
        self, first: Evaluation, factor: float = 1.0, among: Collection[Tensor] | None = None
    ) -> Move:
        """ε = φ(n)·M·d from a gradient, as the move from w that the engine makes.

        The norm n is over all selected tensors of all groups together (tensor by tensor in metrics
        that say so); each group's ρ scales its own tensors. This is the ε that ``opt.last``
        shows, and the gradient that transforms remember.

        Args:
            first: what the gradient comes from.
            factor: what ρ is multiplied by.
            among: the only tensors that may move.
        """
        if self._engine.keeps_gradient:
            self._first.add(first.gradient, first.examples)
        ascent = Ascent(self, self._engine, factor, among)
        move = ascent.build(first.gradient)
        self._norm, self._size = ascent.norm, ascent.size
        return move

    def toward(self, gradient: Gradient, factor: float = 1.0) -> Move:
        """The same along another gradient, beside the step's own ε; below 0 it goes downhill.

        Moves add up: ``step.perturb(first) + step.toward(other, -0.5)``.
        """
        return Ascent(self, self._engine, factor).build(gradient)

    def displace(self, tensors: Gradient, scale: float) -> Move:
        """w + scale·t, as it is."""
        exact: Any = scale
        if not self._engine.reads_freely:  # what is not finite must not reach the weights
            exact = torch.full((), scale, device=self._engine.device)
        return [Shift(part.weights, part.tensors, exact) for part in tensors]

    def settle(self, move: Move) -> None:
        """Stand at w + move, whatever came before; an empty move is back at w.

        The evaluations and perturbations that follow start from there: the plan, and metrics, see
        these weights. They are away from w: running statistics do not move, and their losses are
        not those that ``opt.last`` shows. The engine goes back to w when the plan has ended or
        failed. Memory: one more copy of the tensors that move.
        """
        settle(self._engine, move)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """A forward that counts as one at w+ε, though the engine has not moved the weights."""
        self._engine.away = True
        try:
            yield
        finally:
            self._engine.away = False

    def moves_only(self, params: Sequence[Tensor]) -> bool:
        """Whether ε is on these parameters alone."""
        return self._engine.selected() <= set(params)

    @property
    def changed_statistics(self) -> str:
        """The policy for running statistics, if it makes passes at w+ε others than those at w."""
        statistics = self._engine.statistics
        return statistics.policy if statistics.changes_passes else ""

    def need_one_batch(self) -> None:
        """Raise where the caller has split the batch and the method compares its examples.

        Raises:
            InputError: there are micro-batches.
        """
        if self.micro_batches is not None:
            raise InputError(ONE_BATCH)

    def average(self, values: Tensor, weight: float) -> Tensor:
        """The weighted mean over the devices that share the batch; the values alone on one."""
        return self._engine.devices.average(values, weight)

    def look(self, norm: Tensor) -> None:
        """Mark the step to be skipped if a norm that the plan has taken is not finite."""
        torch.maximum(self.found, (~torch.isfinite(norm)).to(self.found), out=self.found)
        if self._engine.reads_freely and self._engine.devices.together:
            self.bad = self.bad or bool(self.found)

    @property
    def reads_freely(self) -> bool:
        """Whether the host may look at numbers without waiting for a device."""
        return self._engine.reads_freely

    @property
    def groups(self) -> list[Group]:
        """All parameter groups."""
        return self._engine.groups

    @property
    def params(self) -> list[Tensor]:
        """All parameters of the optimizer that are trained."""
        return [p for group in self._engine.groups for p in group["params"] if p.requires_grad]

    @property
    def anchor(self) -> Tensor:
        """The first parameter, whose state has what belongs to no parameter alone."""
        first: Tensor = self._engine.groups[0]["params"][0]
        return first

    def each(self, make: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
        """A tensor for every trained parameter, made of it and of its share that is here."""
        parts = []
        for group in self._engine.groups:
            params = [p for p in group["params"] if p.requires_grad]
            parts.append(Part(group, params, [make(p, local(p)) for p in params]))
        return Gradient([part for part in parts if part.params])

    @property
    def local(self) -> bool:
        """Whether ε is each device's own."""
        return self._engine.devices.replicas.local

    def shared(self, gradient: Gradient) -> Gradient:
        """The mean over devices of a gradient that they have not exchanged, unless ε is local."""
        if self.local or not self._engine.devices.replicas.modules:
            return gradient
        flat = torch.cat([t.reshape(-1) for t in gradient.tensors])
        pieces = torch.split(self.average(flat, 1.0), [t.numel() for t in gradient.tensors])
        pairs = zip(pieces, gradient.tensors, strict=True)
        return gradient.like([piece.view_as(t) for piece, t in pairs])

    def gather(self, values: Tensor) -> Tensor:
        """What all devices that share the batch have, along the first dimension."""
        return self._engine.devices.gather(values)

    def generator(self, seed: int, number: int = 0) -> torch.Generator:
        """Random numbers on the host, as a function of the seed, the step and `number`."""
        return counter_based(torch.device("cpu"), seed, self.count, number)

    def draw(self, kind: str, seed: int, number: int = 0) -> Gradient:
        """Random directions for every selected parameter: "normal", "uniform" on [−1, 1] or "sign".

        They are a function of the seed, the step and `number`, so a resumed run draws the same.

        Raises:
            InputError: parameters are split over processes.
        """
        if self.split:
            raise InputError(RANDOM_SHARDS)
        generator = counter_based(self._engine.device, seed, self.count, number)
        return self._engine.select(self.each(lambda p, _: _random(p, kind, generator)), None)

    @property
    def split(self) -> bool:
        """Whether parameters are split over processes: then every process must take part in every
        norm, even one that has nothing to add to it."""
        return self._engine.devices.shards.split

    def norm(self, gradient: Gradient) -> Tensor:
        """‖·‖ over all parameters together, on all processes; 0-dim, float32 at least."""
        if not self.split:
            return global_norm(gradient.tensors)
        square = self._engine.devices.shards.powers([gradient.params], [gradient.tensors])
        return square[0].sqrt().to(wide_type(gradient.tensors))

    def inner(self, a: Gradient, b: Gradient) -> Tensor:
        """⟨a, b⟩ over all parameters together, on all processes; 0-dim, float32 at least."""
        if not self.split:
            return inner_product(a.tensors, b.tensors)

        def share(alike: list[int]) -> Any:
            left, right = a.tensors, b.tensors
            return inner_product([left[i] for i in alike], [right[i] for i in alike])

        return self._engine.devices.shards.sums([a.params], [share])[0].to(wide_type(a.tensors))

    def norms(
        self, params: Sequence[Tensor], tensors: Sequence[Tensor], order: float = 2.0
    ) -> list[Tensor]:
        """The norm of each tensor, the shares of other processes included."""
        if not self.split:
            return tensor_norms(tensors, order)
        shards = self._engine.devices.shards
        powers = shards.powers([[p] for p in params], [[t] for t in tensors], order)
        return list((powers ** (1 / order)).to(wide_type(tensors)))

    def known_bad(self, u: Gradient, *, host: bool) -> bool:
        """Look for anything not finite in u; only `host` waits for the answer."""
        mark_non_finite(u.tensors, self.found)
        self._engine.devices.agree(self.found)
        if host:
            self.bad = bool(self.found)
        return self.bad

    def new_state(self) -> list[Write]:
        """All state that this step changes, computed but not written.

        On the device, values stay what they were where anything was not finite, and 0 where there
        were none: the host does not know whether the step is taken.
        """
        self._stage_transform()
        self._engine.owns_state = self._engine.owns_state or bool(self._staged or self._rows)
        writes = [self._contained(write) for write in self._rows]
        for key, new, first in self._staged:
            for p, value in zip(new.params, new.tensors, strict=True):
                if self._engine.on_device:
                    old = remembered(self.state, p, key)
                    if old is None:
                        old = value if first else torch.zeros_like(value)
                    value = torch.where(self.found > 0, old, value)
                writes.append(Write(p, key, placed_like(value, p)))
        return writes

    def _contained(self, write: Write) -> Write:
        """The same, or what stands there already if the host cannot know of a skip."""
        if not self._engine.on_device:
            return write
        if write.rows is None:
            old = torch.zeros_like(write.value)
        else:
            old = self.state[write.param][write.key][write.rows]
        return replace(write, value=torch.where(self.found > 0, old, write.value))

    def new_hypers(self) -> dict[str, Any]:
        """The hyperparameters that this step changes; on the device, the old ones if skipped."""
        if not self._engine.on_device:
            return self._hypers
        old = {key: torch.as_tensor(self.hyper[key]).to(self.found) for key in self._hypers}
        return {k: torch.where(self.found > 0, old[k], v) for k, v in self._hypers.items()}

    def _stage_transform(self) -> None:
        transform = self._engine.perturbation.transform
        if transform is None or not transform.remembers or not self._first.weight:
            return
        for part in self._engine.select(self.gradient(), None):
            for key, tensors in transform.update(part, self.state).items():
                self.stage(key, Gradient([Part(part.group, part.params, tensors)]))

    def record(self, skipped: bool | Tensor, total: int | Tensor) -> StepRecord:
        """What `last` shows."""
        losses = self.loss.value, self.perturbed_loss.value
        return StepRecord(*losses, self._norm, self._size, skipped, total)
