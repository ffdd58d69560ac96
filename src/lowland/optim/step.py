"""One step in progress: what a plan may ask of the engine, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.core.perturbation import (
    combine_norms,
    global_norm,
    inner_product,
    mark_non_finite,
    non_finite_flag,
)
from lowland.core.sharding import placed_like
from lowland.optim.displacement import Move
from lowland.optim.gradient import Gradient, Group, Part, WeightedMean, remembered
from lowland.optim.perturbation import State
from lowland.optim.scaling import Scaling

if TYPE_CHECKING:
    from lowland.optim.engine import Engine
    from lowland.optim.plan import Evaluation


LARGEST = torch.finfo(torch.float32).max
"""A scale above this is not finite in the arithmetic of the weights."""

SPARSE = (
    "a parameter has a sparse gradient, which has no perturbation: build the embedding with "
    "sparse=False"
)


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step; numbers are 0-dim tensors on the device, read when wanted.

    Attributes:
        loss: L(w) as the loss function returned it, detached; in context form as the caller gave
            it (``perturbed(loss=...)``), in two-step form None.
        perturbed_loss: L(w+ε), likewise; None if there was no second pass.
        grad_norm: n, the norm that scaled ε (‖g‖ for SAM, ‖T·g‖ for ASAM); of the last part if the
            batch was split; None without a second pass.
        perturbation_norm: the norm of ε in the metric (‖ε‖ for SAM, ‖T⁻¹·ε‖ for ASAM), likewise.
        skipped: whether the step was skipped because a gradient was not finite.
        skipped_total: how many were, over the whole training.
    """

    loss: Tensor | None
    perturbed_loss: Tensor | None
    grad_norm: Tensor | None
    perturbation_norm: Tensor | None
    skipped: bool | Tensor
    skipped_total: int | Tensor

    def metrics(self) -> dict[str, float]:
        """What is known of them as numbers, by name, for any tracker; waits for the device once.

        Names: loss, perturbed_loss, sharpness, grad_norm, perturbation_norm, skipped (0 or 1),
        skipped_total.
        """
        names = ("loss", "perturbed_loss", "sharpness", "grad_norm", "perturbation_norm")
        known = {name: value for name in names if (value := getattr(self, name)) is not None}
        known |= {"skipped": self.skipped, "skipped_total": self.skipped_total}
        tensors = {name: v for name, v in known.items() if isinstance(v, Tensor)}
        numbers = {name: float(v) for name, v in known.items() if name not in tensors}
        if tensors:
            device = next(iter(tensors.values())).device
            together = torch.stack([v.detach().to(device).double() for v in tensors.values()])
            numbers |= dict(zip(tensors, together.tolist(), strict=True))
        return {name: numbers[name] for name in known}

    @property
    def sharpness(self) -> Tensor | None:
        """L(w+ε) − L(w), free in every step with two passes; None where either is unknown."""
        if self.loss is None or self.perturbed_loss is None:
            return None
        return self.perturbed_loss - self.loss


def _wide(tensors: Sequence[Tensor]) -> torch.dtype:
    double = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    return torch.float64 if double else torch.float32


def _scaled_norm(norms: list[Tensor], radii: list[Any]) -> Tensor:
    return combine_norms([n * abs(r) for n, r in zip(norms, radii, strict=True)])


class MeanLoss:
    """The example-weighted mean of the losses of the parts of one step.

    Args:
        summed: their sum instead, for losses that were divided before.
    """

    def __init__(self, summed: bool = False) -> None:
        self.value: Tensor | None = None
        self.summed = summed
        self._weight = 0.0

    def add(self, loss: Any, weight: float) -> None:
        """Take in a loss; what is not a number (a dictionary, say) is not recorded."""
        if isinstance(loss, Tensor) and loss.numel() == 1:
            value = loss.detach().reshape(())
        elif isinstance(loss, int | float):
            value = torch.tensor(float(loss))
        else:
            return
        self._weight += weight
        if self.value is None:
            self.value = value
        elif self.summed:
            self.value = self.value + value
        else:
            self.value = self.value + (value - self.value) * (weight / self._weight)


class Step:
    """One optimizer step while it runs.

    Attributes:
        count: how many steps came before.
        hyper: the hyperparameters of the first parameter group.
        examples: the number of examples of the batch, where the engine has it.
        micro_batches: into how many parts the caller has split it, where he has.
        scaling: the gradient scaler of this step, if there is one.
        found: 1 once anything was found not to be finite, on the device; else 0.
        bad: the same, where the host already knows.
    """

    def __init__(
        self, engine: Engine, factor: float, examples: int | None, scaling: Scaling | None = None
    ) -> None:
        self._engine, self._factor = engine, factor
        self.hyper: Group = engine.groups[0]
        self.count: int = self.hyper["sam_step"]
        self.examples, self.scaling = examples, scaling
        self.micro_batches: int | None = None
        self.found = non_finite_flag(engine.device)
        self.bad = False
        self.loss, self.perturbed_loss = MeanLoss(), MeanLoss()
        self.second = WeightedMean()
        self._first = WeightedMean()
        self._norm: Tensor | None = None
        self._size: Tensor | None = None
        self._staged: list[tuple[str, Gradient]] = []

    @property
    def state(self) -> State:
        """Per-parameter state; to change it, `stage` the new tensors."""
        return self._engine.state

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm that has scaled ε, of the last part; None before, or without a second pass."""
        return self._norm

    def gradient(self) -> Gradient:
        """g: the example-weighted mean of the gradients at w that this step perturbed along."""
        return self._first.value()

    def stage(self, key: str, new: Gradient) -> None:
        """Write ``state[p][key]`` for every parameter of `new` once the step has been taken."""
        self._staged.append((key, new))

    def perturb(self, first: Evaluation) -> Move:
        """ε = φ(n)·M·d from a gradient at w, as the move that the engine makes.

        The norm n is over all selected tensors of all groups together; each group's ρ scales its
        own tensors.
        """
        if self._engine.keeps_gradient:
            self._first.add(first.gradient, first.examples)
        chosen = self._engine.select(first.gradient, self.found)
        if not (chosen.parts or self.split):
            raise RuntimeError(
                "none of the selected parameters has a gradient: there is nothing to perturb"
            )
        directions = [self._engine.direction(part) for part in chosen]
        built = [self._engine.perturbation.metric(part) for part in directions]
        measured = [halfway for _, halfway in built]
        norm, sizes = self._measure(chosen, measured)
        quiet, guard = None, self._engine.relative_guard
        if guard:  # d is what rounding has left of g
            quiet = self.norm(Gradient(directions)) < guard * self.norm(chosen)
        radii = self._radii([part.group for part in chosen], norm, quiet)
        self._norm = norm
        self._size = self._epsilon_norm(chosen, norm, radii, sizes or measured)
        moves = [(p.weights, d, r) for p, (d, _), r in zip(chosen, built, radii, strict=True)]
        return [m for m in moves if isinstance(m[2], Tensor) or m[2] != 0.0]

    @property
    def split(self) -> bool:
        """Whether parameters are split over processes: then every process must take part in every
        norm, even one that has nothing to add to it."""
        return self._engine.devices.shards.split

    def norm(self, gradient: Gradient) -> Tensor:
        """‖·‖ over all parameters together, on all processes; 0-dim, float32 at least."""
        if not self.split:
            return global_norm(gradient.tensors)
        square = self._engine.devices.shards.squares([gradient.params], [gradient.tensors])
        return square[0].sqrt().to(_wide(gradient.tensors))

    def inner(self, a: Gradient, b: Gradient) -> Tensor:
        """⟨a, b⟩ over all parameters together, on all processes; 0-dim, float32 at least."""
        if not self.split:
            return inner_product(a.tensors, b.tensors)

        def share(alike: list[int]) -> Any:
            left, right = a.tensors, b.tensors
            return inner_product([left[i] for i in alike], [right[i] for i in alike])

        return self._engine.devices.shards.sums([a.params], [share])[0].to(_wide(a.tensors))

    def _measure(
        self, chosen: Gradient, measured: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(n over everything, n of each group where they come at no further cost)."""
        joint = [t for tensors in measured for t in tensors]
        if self.split:
            return self._measure_shards(chosen, measured)
        try:
            weights = [w for part in chosen for w in part.weights]
            every = len(weights) == len(self._engine.devices.params)
            return self._engine.displacement.norm(weights, joint, all_move=every), None
        except RuntimeError:
            if any(t.layout is not torch.strided for t in joint):
                raise RuntimeError(SPARSE) from None
            raise

    def _epsilon_norm(
        self, chosen: Gradient, norm: Tensor, radii: list[Any], groups: Sequence[Any]
    ) -> Tensor:
        """‖ε‖ in the metric, from the norms of the groups or their tensors."""
        shards = self._engine.devices.shards
        if self.split and shards.divided:
            owners = [i for i, tensors in enumerate(groups) for _ in tensors]
            flat = [t for tensors in groups for t in tensors]

            def share(alike: list[int]) -> Any:
                rows = [[flat[i] for i in alike if owners[i] == k] for k in range(len(radii))]
                return _scaled_norm([global_norm(row) for row in rows], radii).double() ** 2

            return shards.sums([chosen.params], [share])[0].sqrt().to(norm.dtype)
        if len(radii) == 1:
            size: Tensor = norm * abs(radii[0])
            return size
        return _scaled_norm([n if isinstance(n, Tensor) else global_norm(n) for n in groups], radii)

    def _measure_shards(
        self, chosen: Gradient, measured: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor] | None]:
        """The same over all processes, which exchange as many numbers wherever they have gradients.

        Where whole parameters are divided, groups are not the same everywhere: the numbers of this
        process are all that is known of them.
        """
        shards, wide = self._engine.devices.shards, _wide([t for row in measured for t in row])
        if shards.divided:
            joint = [t for tensors in measured for t in tensors]
            return shards.squares([chosen.params], [joint])[0].sqrt().to(wide), None
        held = {id(part.group): i for i, part in enumerate(chosen)}
        at = [held.get(id(group)) for group in self._engine.groups]
        params = [[] if i is None else chosen.parts[i].params for i in at]
        tensors = [[] if i is None else measured[i] for i in at]
        squares = shards.squares(params, tensors)
        own = [squares[at.index(i)].sqrt().to(wide) for i in range(len(chosen.parts))]
        return squares.sum().sqrt().to(wide), own

    def _radii(self, groups: list[Group], norm: Tensor, quiet: Tensor | None) -> list[Any]:
        """φ per group: numbers where the host may look at n, tensors where that would wait.

        What is not finite ends the step at once where every process sees it; where only this one
        may have seen it, it takes part in the rest of the step, at w, and all of them skip.
        """
        rhos = [g["rho"] * self._factor * (-1 if g.get("maximize") else 1) for g in groups]
        radius = self._engine.perturbation.radius
        if self._engine.reads_freely:
            n = float(norm)
            bad = not math.isfinite(n)
            if self._engine.devices.together:
                bad = bad or bool(self.found)
            nothing = bad or n == 0.0 or (quiet is not None and bool(quiet))
            found = [0.0 if nothing or rho == 0 else radius(n, rho) for rho in rhos]
            if bad or any(abs(r) > LARGEST for r in found):
                self.found.fill_(1.0)
                found = [0.0] * len(found)
                # a norm over shards is everybody's; a gradient of one's own is not
                self.bad = self.bad or not self._engine.devices.replicas.groups
            return found
        torch.maximum(self.found, (~torch.isfinite(norm)).to(self.found), out=self.found)
        radii = [radius(norm, rho) for rho in rhos]
        if quiet is not None:
            radii = [torch.where(quiet, torch.zeros_like(r), r) for r in radii]
        return radii

    def known_bad(self, u: Gradient, *, host: bool) -> bool:
        """Look for anything not finite in u; only `host` waits for the answer."""
        mark_non_finite(u.tensors, self.found)
        self._engine.devices.agree(self.found)
        if host:
            self.bad = bool(self.found)
        return self.bad

    def new_state(self) -> list[tuple[Tensor, str, Tensor]]:
        """(parameter, key, value) of all state that this step changes, computed but not written.

        On the device, values stay what they were where anything was not finite, and 0 where there
        were none: the host does not know whether the step is taken.
        """
        self._stage_transform()
        self._engine.owns_state = self._engine.owns_state or bool(self._staged)
        writes: list[tuple[Tensor, str, Tensor]] = []
        for key, new in self._staged:
            for p, value in zip(new.params, new.tensors, strict=True):
                if self._engine.on_device:
                    old = remembered(self.state, p, key)
                    old = torch.zeros_like(value) if old is None else old
                    value = torch.where(self.found > 0, old, value)
                writes.append((p, key, placed_like(value, p)))
        return writes

    def _stage_transform(self) -> None:
        transform = self._engine.perturbation.transform
        if transform is None or not self._first.weight:
            return
        for part in self._engine.select(self.gradient(), None):
            for key, tensors in transform.update(part, self.state).items():
                self.stage(key, Gradient([Part(part.group, part.params, tensors)]))

    def record(self, skipped: bool | Tensor, total: int | Tensor) -> StepRecord:
        """What `last` shows."""
        losses = self.loss.value, self.perturbed_loss.value
        return StepRecord(*losses, self._norm, self._size, skipped, total)
