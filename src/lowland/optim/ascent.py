"""From a gradient at w to ε, as the move that the engine makes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.perturbation import combine_norms, global_norm
from lowland.optim.displacement import Move, Scale, Shift
from lowland.optim.gradient import Gradient, Group
from lowland.optim.metrics import Finish, dual_exponent

if TYPE_CHECKING:
    from lowland.optim.engine import Engine
    from lowland.optim.step import Step

LARGEST = torch.finfo(torch.float32).max
"""A scale above this is not finite in the arithmetic of the weights."""

SPARSE = (
    "a parameter has a sparse gradient, which has no perturbation: build the embedding with "
    "sparse=False"
)
STAGES = (
    "a metric that measures tensor by tensor does not go with split_over=: the stages have other "
    "tensors each; use a joint metric"
)
NOTHING = "none of the selected parameters has a gradient: there is nothing to perturb"


@dataclass
class Ascent:
    """ε = φ(n)·M·d of one evaluation.

    Attributes:
        step: the step in progress.
        engine: its engine.
        factor: what ρ is multiplied by; below 0 for a move downhill.
        among: the only tensors that may move; None is all that are selected.
        norm: n, once built; of tensor by tensor metrics that of everything together.
        size: the norm of ε in the metric, once built.
        p, order: ε is bounded in the p-norm, n is of the dual order q.
        units: the n of each tensor.
    """

    step: Step
    engine: Engine
    factor: float
    among: Collection[Tensor] | None = None
    norm: Tensor | None = None
    size: Tensor | None = None
    p: float = 2.0
    order: float = 2.0
    units: list[list[Tensor]] = field(default_factory=list)

    def build(self, gradient: Gradient) -> Move:
        """The move; what is found not to be finite is marked in the step."""
        rule, step = self.engine.perturbation, self.step
        self.p = rule.metric.p
        self.order = dual_exponent(self.p)
        self.engine.displacement.checked = False
        chosen = self.engine.select(gradient, step.found)
        if self.among is not None:
            allowed = set(self.among)
            chosen = chosen.where(lambda p: p in allowed)
        if not (chosen.parts or step.split):
            raise RuntimeError(NOTHING)
        directions = [self.engine.direction(part) for part in chosen]
        built = [rule.metric(part, step) for part in directions]
        measured = [tensors for tensors, _ in built]
        if rule.norm_of == "gradient" and rule.transform is not None:
            sizes = [rule.metric(part, step)[0] for part in chosen]
        else:
            sizes = measured
        quiet, guard = None, self.engine.relative_guard
        if guard:  # d is what rounding has left of g
            quiet = step.norm(Gradient(directions)) < guard * step.norm(chosen)
        arrange = self._jointly if rule.metric.joint else self._one_by_one
        scales: Sequence[Any] = arrange(chosen, sizes, quiet)
        if sizes is not measured:  # n is of the gradient; ε is what has been measured
            norms = [step.norm(Gradient([part])) for part in chosen.like(_flat(measured))]
            self.size = self._together(norms, list(scales))
        del sizes, measured, directions
        moves = [
            Shift(part.weights, tensors, scale, self._on_units(finish, units))
            for part, (tensors, finish), scale, units in zip(
                chosen, built, scales, self.units, strict=True
            )
        ]
        return [m for m in moves if _moves(m.scale)]

    def _on_units(self, finish: Finish | None, units: list[Tensor]) -> Finish | None:
        """`finish` on measured tensors of norm 1: in J, powers of small numbers would vanish."""
        if self.p == 2 or finish is None:
            return finish
        return lambda tensors: finish([t / n for t, n in zip(tensors, units, strict=True)])

    # One norm over everything

    def _jointly(
        self, chosen: Gradient, sizes: list[list[Tensor]], quiet: Tensor | None
    ) -> list[Any]:
        groups = [part.group for part in chosen]
        norm, by_group = self._measure(chosen, sizes)
        radii = self._radii(groups, [norm] * len(groups), quiet)
        self.norm, self.units = norm, [[norm] * len(tensors) for tensors in sizes]
        self.size = self._size(chosen, radii, by_group or sizes)
        return radii

    def _measure(
        self, chosen: Gradient, sizes: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(n over everything, n of each group where they come at no further cost)."""
        joint = [t for tensors in sizes for t in tensors]
        if self.step.split:
            return self._measure_shards(chosen, sizes)
        try:
            if self.order != 2:
                return global_norm(joint, self.order), None
            weights = [w for part in chosen for w in part.weights]
            every = len(weights) == len(self.engine.devices.params)
            return self.engine.displacement.norm(weights, joint, all_move=every), None
        except RuntimeError:
            if any(t.layout is not torch.strided for t in joint):
                raise RuntimeError(SPARSE) from None
            raise

    def _measure_shards(
        self, chosen: Gradient, sizes: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor] | None]:
        """The same over all processes, which exchange as many numbers wherever they have gradients.

        Where whole parameters are divided, groups are not the same everywhere: the numbers of this
        process are all that is known of them.
        """
        q, shards = self.order, self.engine.devices.shards
        joint = [t for tensors in sizes for t in tensors]
        wide = wide_type(joint)
        if shards.divided:
            return (shards.powers([chosen.params], [joint], q)[0] ** (1 / q)).to(wide), None
        held = {id(part.group): i for i, part in enumerate(chosen)}
        at = [held.get(id(group)) for group in self.engine.groups]
        params = [[] if i is None else chosen.parts[i].params for i in at]
        tensors = [[] if i is None else sizes[i] for i in at]
        powers = shards.powers(params, tensors, q)
        own = [(powers[at.index(i)] ** (1 / q)).to(wide) for i in range(len(chosen.parts))]
        return (powers.sum() ** (1 / q)).to(wide), own

    def _size(self, chosen: Gradient, radii: list[Any], groups: Sequence[Any]) -> Tensor:
        """‖ε‖ in the metric, from the norms of the groups or their tensors."""
        assert self.norm is not None
        shards = self.engine.devices.shards
        if self.step.split and shards.divided:
            owners = [i for i, tensors in enumerate(groups) for _ in tensors]
            flat = [t for tensors in groups for t in tensors]

            def share(alike: list[int]) -> Any:
                rows = [[flat[i] for i in alike if owners[i] == k] for k in range(len(radii))]
                norms = [global_norm(row, self.order) for row in rows]
                return self._together(norms, radii).double() ** self.p

            if self.p == math.inf:  # a largest value is no sum; that of this process
                return self._together([global_norm(g, self.order) for g in groups], radii)
            total = shards.sums([chosen.params], [share])[0] ** (1 / self.p)
            return total.to(self.norm.dtype)
        if len(radii) == 1:
            size: Tensor = self._grown(self.norm, self.norm) * abs(radii[0])
            return size
        norms = [n if isinstance(n, Tensor) else global_norm(n, self.order) for n in groups]
        return self._together(norms, radii)

    # A norm for each tensor

    def _one_by_one(
        self, chosen: Gradient, sizes: list[list[Tensor]], quiet: Tensor | None
    ) -> list[list[Any]]:
        if self.step.split and self.engine.devices.shards.divided:
            raise InputError(STAGES)
        flat = [t for tensors in sizes for t in tensors]
        norms = self.step.norms(chosen.params, flat, self.order)
        owners = [part.group for part in chosen for _ in part.tensors]
        radii = self._radii(owners, norms, quiet)
        self.norm = combine_norms(norms, self.order)
        each = [self._grown(n, n) * abs(r) for n, r in zip(norms, radii, strict=True)]
        self.size = combine_norms(each, self.p)
        units, rest = iter(norms), iter(radii)
        self.units = [[next(units) for _ in tensors] for tensors in sizes]
        return [[next(rest) for _ in tensors] for tensors in sizes]

    def _grown(self, norm: Tensor, unit: Tensor) -> Tensor:
        """What ε = J(v/unit) measures, for ‖v‖_q = norm; for p = 2 of ε = v."""
        if self.p == 2:
            return norm
        share = (norm / unit) ** (self.order - 1)
        return torch.where(norm > 0, share, torch.zeros_like(share))

    def _together(self, norms: list[Tensor], radii: list[Any]) -> Tensor:
        assert self.norm is not None
        whole = self.norm
        parts = [self._grown(n, whole) * abs(r) for n, r in zip(norms, radii, strict=True)]
        return combine_norms(parts, self.p)

    # Radii

    def _unit(self, norm: Any) -> Any:
        """What the move is divided by beforehand, see `_on_units`."""
        return 1.0 if self.p == 2 else norm

    def _radii(self, groups: list[Group], norms: list[Tensor], quiet: Tensor | None) -> list[Any]:
        """φ of each norm: numbers where the host may look at n, tensors where that would wait.

        What is not finite ends the step at once where every process sees it; where only this one
        may have seen it, it takes part in the rest of the step, at w, and all of them skip.
        """
        step, engine = self.step, self.engine
        radius = engine.perturbation.radius
        rhos = [
            g["rho"] * step.factor * self.factor * (-1 if g.get("maximize") else 1) for g in groups
        ]
        if engine.reads_freely:
            numbers = _numbers(norms)
            bad = not all(map(math.isfinite, numbers))
            if engine.devices.together:
                bad = bad or bool(step.found)
            nothing = bad or (quiet is not None and bool(quiet))
            found: list[Any] = [
                0.0 if nothing or rho == 0 or n == 0 else radius(n, rho, group) * self._unit(n)
                for n, rho, group in zip(numbers, rhos, groups, strict=True)
            ]
            if bad or any(abs(r) > LARGEST for r in found):
                step.found.fill_(1.0)
                found = [0.0] * len(found)
                # a norm over shards is everybody's; a gradient of one's own is not
                step.bad = step.bad or not engine.devices.replicas.groups
            return found
        for norm in {id(n): n for n in norms}.values():
            torch.maximum(step.found, (~torch.isfinite(norm)).to(step.found), out=step.found)
        scales = [
            radius(n, rho, g) * self._unit(n) for n, rho, g in zip(norms, rhos, groups, strict=True)
        ]
        if quiet is not None:
            scales = [torch.where(quiet, torch.zeros_like(r), r) for r in scales]
        return scales


def _flat(rows: list[list[Tensor]]) -> list[Tensor]:
    return [t for row in rows for t in row]


def _moves(scale: Scale | list[Scale]) -> bool:
    scales = scale if isinstance(scale, list) else [scale]
    return any(isinstance(s, Tensor) or s != 0.0 for s in scales)


def _numbers(norms: list[Tensor]) -> list[float]:
    if all(n is norms[0] for n in norms):
        return [float(norms[0])] * len(norms) if norms else []
    return [float(n) for n in norms]


def wide_type(tensors: Sequence[Tensor]) -> torch.dtype:
    """float64 if any of them is of double precision, else float32."""
    double = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    return torch.float64 if double else torch.float32
