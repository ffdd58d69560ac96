"""Gradients as the engine hands them around: lists of tensors beside their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.sharding import any_sharded, local, local_gradient, placed_like

Group = dict[str, Any]


@dataclass
class Part:
    """The share of one parameter group: its parameters that have a gradient, and the gradients.

    Of sharded parameters (DTensor) the tensors are this process's shares, everywhere in the
    engine: elementwise work needs no more, and what sums over elements asks the `Step`.
    """

    group: Group
    params: list[Tensor]
    tensors: list[Tensor]

    @property
    def weights(self) -> list[Tensor]:
        """The weights that the tensors lie beside: the parameters, or their shares here."""
        return [local(p) for p in self.params] if any_sharded(self.params) else self.params


@dataclass
class Gradient:
    """A gradient (or a direction) over all groups, group by group.

    Parameters without a gradient are absent: they add nothing to a norm and are not moved.
    """

    parts: list[Part]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return [t for part in self.parts for t in part.tensors]

    @property
    def params(self) -> list[Tensor]:
        """All parameters, in the same order."""
        return [p for part in self.parts for p in part.params]

    def like(self, tensors: Sequence[Tensor]) -> Gradient:
        """The same parameters with other tensors."""
        rest = iter(tensors)
        return Gradient(
            [Part(part.group, part.params, [next(rest) for _ in part.params]) for part in self]
        )

    def where(self, wanted: Callable[[Tensor], bool]) -> Gradient:
        """Only the parameters for which `wanted` holds."""
        parts = []
        for part in self:
            both = zip(part.params, part.tensors, strict=True)
            kept = [(p, t) for p, t in both if wanted(p)]
            if kept:
                parts.append(Part(part.group, [p for p, _ in kept], [t for _, t in kept]))
        return Gradient(parts)

    def by_param(self) -> dict[Tensor, Tensor]:
        """parameter → tensor."""
        return dict(zip(self.params, self.tensors, strict=True))


def remembered(state: dict[Tensor, dict[str, Any]], param: Tensor, key: str) -> Tensor | None:
    """``state[param][key]``, of a sharded tensor the share that is here; None if there is none."""
    slot = state.get(param)  # hashing a parameter is a call into Python: once
    held: Tensor | None = None if slot is None else local(slot.get(key))
    return held


def collect(groups: Sequence[Group]) -> Gradient:
    """The gradients that stand in ``.grad`` now."""
    parts = []
    for group in groups:
        params: list[Tensor] = group["params"]
        tensors = [p.grad for p in params]
        held = [t for t in tensors if t is not None]
        if len(held) < len(tensors):
            params = [p for p, t in zip(params, tensors, strict=True) if t is not None]
        if held:
            if any_sharded(held):
                held = [local_gradient(p, t) for p, t in zip(params, held, strict=True)]
            parts.append(Part(group, params, held))
    return Gradient(parts)


def clear(groups: Sequence[Group]) -> None:
    """Set every ``.grad`` to None."""
    for group in groups:
        for p in group["params"]:
            p.grad = None


def put(gradient: Gradient, groups: Sequence[Group]) -> None:
    """Make `gradient` what stands in ``.grad``, and nothing else."""
    held = gradient.by_param()
    for group in groups:
        for p in group["params"]:
            t = held.get(p)
            p.grad = None if t is None else placed_like(t, p)


def owned(gradient: Gradient) -> Gradient:
    """The gradient in memory of its own: views into the buckets of data-parallel training are
    overwritten by the next pass."""
    if not any(t._is_view() for t in gradient.tensors):
        return gradient
    return gradient.like([t.clone() for t in gradient.tensors])


def apart(gradient: Gradient, other: Gradient) -> Gradient:
    """The gradient with copies of those tensors that are `other`'s."""
    theirs = set(map(id, other.tensors))
    return gradient.like([t.clone() if id(t) in theirs else t for t in gradient.tensors])


class WeightedMean:
    """The example-weighted mean Σ n_i·g_i / Σ n_i of gradients that arrive one by one.

    One gradient alone is kept as it is, without arithmetic, so that methods over a single part
    agree bit for bit with those that never split. A parameter absent from some of the gradients
    counts as zero there. The first gradient becomes the accumulator: its tensors are taken over.
    Memory: no copy, but for views, which are copied (buckets of data-parallel training are
    overwritten by the next pass).

    Args:
        summed: take Σ g_i instead, for losses that were divided before.
    """

    def __init__(self, summed: bool = False) -> None:
        self.summed = summed
        self._first: Gradient | None = None
        self._sums: dict[Tensor, Tensor] = {}
        self._groups: list[Group] = []
        self.weight = 0.0
        self._started = False

    def add(self, gradient: Gradient, weight: float) -> None:
        """Take in g_i with weight n_i."""
        weight = 1.0 if self.summed else weight
        if self.weight == 0.0:
            self._first, self.weight = owned(gradient), weight
            return
        if not self._started:
            self._start()
        for part in gradient:
            self._add_part(part, weight)
        self.weight += weight

    def _start(self) -> None:
        assert self._first is not None
        self._groups = [part.group for part in self._first]
        for part in self._first:
            torch._foreach_mul_(part.tensors, self.weight)
            self._sums.update(zip(part.params, part.tensors, strict=True))
        self._first, self._started = None, True

    def _add_part(self, part: Part, weight: float) -> None:
        if not any(part.group is group for group in self._groups):
            self._groups.append(part.group)
        known = [(p, t) for p, t in zip(part.params, part.tensors, strict=True) if p in self._sums]
        if known:
            sums = [self._sums[p] for p, _ in known]
            torch._foreach_add_(sums, [t for _, t in known], alpha=weight)
        for p, t in zip(part.params, part.tensors, strict=True):
            if p not in self._sums:
                self._sums[p] = t * weight

    def value(self, final: bool = False) -> Gradient:
        """The mean so far; of a sum the accumulator itself, which goes on growing.

        Args:
            final: nothing comes after this; the accumulator itself becomes the mean.
        """
        if self._first is not None:
            return self._first
        parts = []
        for group in self._groups:
            params = [p for p in group["params"] if p in self._sums]
            tensors = [self._sums[p] for p in params]
            if self.summed:
                pass
            elif final:
                torch._foreach_div_(tensors, self.weight)
            else:
                tensors = list(torch._foreach_div(tensors, self.weight))
            parts.append(Part(group, params, tensors))
        if final:
            self._first, self._sums = Gradient(parts), {}
        return Gradient(parts)
