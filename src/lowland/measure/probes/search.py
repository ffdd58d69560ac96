"""Many quasi-Newton searches side by side: one read of the data serves a trial step of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.probes.objective import Problems, evaluate
from lowland.measure.probes.pairs import Pairs
from lowland.measure.probes.penalties import penalized
from lowland.measure.probes.spectral import Spectral

REJECTIONS = {torch.float32: 4, torch.float64: 8}
"""Shorter and shorter trials before a search in float32 ends, or one in float64 forgets its pairs;
after as many again that one gives up too."""

PATIENCE = 60
"""Reads in which float32 must halve the distance; else only rounding is left in that type."""

NOISE = {torch.float32: 3e-7, torch.float64: 1e-13}
"""Relative differences of the objective below which the slope decides, not the value."""


@dataclass
class _State:
    """The searches that still go on, one row each."""

    index: Tensor
    x: Tensor
    value: Tensor
    g: Tensor
    p: Tensor
    promise: Tensor
    length: Tensor
    rejected: Tensor
    best: Tensor
    since: Tensor

    def select(self, keep: Tensor) -> None:
        for name, tensor in vars(self).items():
            setattr(self, name, tensor[keep])


class Search:
    """Batched (proximal) L-BFGS with backtracking, each search with steps of its own.

    Every read evaluates one trial point per search. Where it is accepted, the search remembers
    the pair and proposes the next step; where not, its step shrinks. A search ends when the
    estimate of (F - F*)/F is at most its target, or when it gets no further in its type.

    Points, pairs and steps are float64 always; `dtype` is the type in which the data are read, and
    points are then representable in it.
    """

    def __init__(
        self,
        problems: Problems,
        basis: Spectral,
        x: Tensor,
        target: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.problems, self.basis, self.target, self.dtype = problems, basis, target, dtype
        self.penalty = penalized(problems, basis)
        self.pairs = Pairs(self.penalty.memory, torch.ones_like(problems.C))
        self.found = x.to(dtype).double()
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.noise = NOISE[dtype]
        self.reads = 0

    def run(self, budget: int) -> None:
        """Search until all have ended or `budget` reads are used; then `found` has the points."""
        state = self._begin()
        while True:
            self._leave(state)
            if not len(state.index) or self.reads >= budget:
                break
            self._tick(state)
        self.found[state.index] = state.x

    def _value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.reads += 1
        found = evaluate(self.problems, x.to(self.dtype))
        value = self.problems.C * found.loss + self.penalty.value(x)
        return value, self.penalty.smooth(x, found.gradient.double())

    def _begin(self) -> _State:
        x = self.found.clone()
        value, g = self._value(x)
        p, promise = self.penalty.propose(x, g, self.pairs)
        zeros = torch.zeros_like(value)
        state = _State(
            index=torch.arange(len(x), device=x.device),
            x=x,
            value=value,
            g=g,
            p=p,
            promise=promise,
            length=zeros + 1,
            rejected=zeros.long(),
            best=zeros + torch.inf,
            since=zeros.long(),
        )
        self._note(state)
        return state

    def _note(self, state: _State) -> None:
        distance = self.penalty.distance(state.x, state.value, state.g) / state.value
        better = distance < 0.5 * state.best
        state.best = torch.where(better, distance, state.best)
        state.since = torch.where(better, 0, state.since + 1)
        done = distance <= self.target[state.index]
        self.reached[state.index[done]] = True

    def _leave(self, state: _State) -> None:
        """Take the searches out that have ended."""
        single = self.dtype == torch.float32
        stuck = state.rejected >= REJECTIONS[self.dtype] * (1 if single else 2)
        if single:
            stuck |= state.since > PATIENCE
        ends = self.reached[state.index] | stuck
        if not bool(ends.any()):
            return
        self.found[state.index[ends]] = state.x[ends]
        keep = (~ends).nonzero()[:, 0]
        state.select(keep)
        self.pairs.select(keep)
        self.penalty.select(keep)
        self.problems = self.problems.select(keep)

    def _tick(self, state: _State) -> None:
        trial = (state.x + state.length[:, None, None] * state.p).to(self.dtype).double()
        value, g = self._value(trial)
        slope = self.penalty.slope(trial, state.p, g)
        ok = self._accepts(state, value, slope)
        with_it = ok[:, None, None]
        s, y = self.basis.to(trial - state.x), self.basis.to(g - state.g)
        self.pairs.add(s, y, self.penalty.metric, ok)
        # where the slope is known to have turned, a parabola through both slopes says where
        turn = state.promise / (state.promise - slope)
        turn = torch.where(torch.isfinite(turn) & (slope > 0), turn, 0.4).clamp(0.1, 0.6)
        state.length = torch.where(ok, 1.0, state.length * turn)
        state.rejected = torch.where(ok, 0, state.rejected + 1)
        state.x = torch.where(with_it, trial, state.x)
        state.g = torch.where(with_it, g, state.g)
        state.value = torch.where(ok, value, state.value)
        weary = state.rejected == REJECTIONS[self.dtype]
        if bool(weary.any()):
            self.pairs.forget(weary)
            state.length = torch.where(weary, 1.0, state.length)
        self._propose(state, ok | weary)
        self._note(state)

    def _accepts(self, state: _State, value: Tensor, slope: Tensor) -> Tensor:
        """A sufficient fall; or, where rounding hides it, a slope that has not turned steep."""
        fell = value <= state.value + 1e-3 * state.length * state.promise
        near = value <= state.value + self.noise * state.value.abs()
        return (fell | (near & (slope <= -0.8 * state.promise))) & torch.isfinite(slope)

    def _propose(self, state: _State, which: Tensor) -> None:
        if not bool(which.any()):
            return
        p, promise = self.penalty.propose(state.x, state.g, self.pairs)
        state.p = torch.where(which[:, None, None], p, state.p)
        state.promise = torch.where(which, promise, state.promise)
