"""The search for the fewest bytes: codecs × numbers of components.

Of one codec recall rises with the number of components, so its smallest is found by halving. What
is decoded from a code is what faiss compares a query with, so recall is measured without building
an index, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lowland.embeddings.codecs import Codec, Fitted
from lowland.embeddings.space import Space
from lowland.embeddings.truth import Nearest, Queries, Recall
from lowland.embeddings.vectors import Floats, Vectors

Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A codec at a number of components, and what was found.

    Attributes:
        codec: the codec.
        k: components.
        bytes: for each vector, with shares of matrix and codebook.
        recall: on the validation queries.
        reaches: whether that reaches the target.
        fitted: the codec as it was fitted.
    """

    codec: Codec
    k: int
    bytes: float
    recall: Recall
    reaches: bool
    fitted: Fitted


def grid_of(most: int) -> list[int]:
    """Numbers of components that are tried: in steps of an eighth or less, and all there are.

    >>> grid_of(40)[14:]
    [15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40]
    """
    found, k = [], 1
    while k < most:
        found.append(k)
        k += 1 if k < 16 else 2 ** (k.bit_length() - 4)
    return [*found, most]


@dataclass(kw_only=True)
class _Bracket:
    """What is known of one codec: the place of its largest k that fails, of its smallest that
    passes, and which were tried."""

    grid: list[int]
    low: int = -1
    high: int | None = None
    tried: int = 0

    def propose(self) -> int | None:
        """The next k to try; None where nothing is left to learn.

        First the smallest, which passes where bits are not what recall is lost by; then the
        largest, which fails where they are; then halves.
        """
        top = len(self.grid) if self.high is None else self.high
        if self.low + 1 >= top:
            return None
        if self.tried == 0:
            return self.grid[self.low + 1]
        return self.grid[top - 1 if self.high is None else (self.low + top) // 2]

    def learn(self, k: int, reaches: bool) -> None:
        """What came of it."""
        place = self.grid.index(k)
        self.tried += 1
        if reaches:
            self.high = place
        else:
            self.low = place


class Search:
    """Trials of codecs on the validation queries."""

    def __init__(
        self,
        vectors: Vectors,
        space: Space,
        queries: Queries,
        sample: Floats,
        *,
        recall: float,
        rerank: int,
        seed: int,
        tell: Tell,
    ) -> None:
        self.trials: list[Trial] = []
        self._vectors, self._space, self._queries = vectors, space, queries
        self._sample, self._recall, self._seed = sample, recall, seed
        self._among = queries.k * rerank
        self._tell = tell

    def cost(self, codec: Codec, k: int) -> float:
        """Bytes of a vector."""
        return codec.bytes_per_vector(k, self._space.dimension, self._space.n)

    def fewest_bytes(self, codecs: Sequence[Codec], at_most: float) -> Trial | None:
        """The trial with the fewest bytes that reaches the target; None if none does.

        From many bits to few. What a codec of more bits cannot do with k components no codec of
        fewer bits is tried with.
        """
        for codec in sorted(codecs, key=lambda c: (c.trained, -c.bits)):
            floor = 1 + max((t.k for t in self.trials if self._rules_out(t, codec)), default=0)
            reached = [t.bytes for t in self.trials if t.reaches]
            # all else is compared with what float32 needs, so that is found whatever it costs
            below = np.inf if codec.bits == 32 else min([*reached, np.nextafter(at_most, np.inf)])
            grid = [k for k in self._grid(codec) if k >= floor and self.cost(codec, k) < below]
            bracket = _Bracket(grid=grid)
            if codec.bits == 32 and grid:
                bracket.tried, bracket.high = 1, len(grid) - 1
            while (k := bracket.propose()) is not None:
                bracket.learn(k, self._try(codec, k).reaches)
            if codec.bits == 32 and bracket.high == len(grid) - 1:
                self._try(codec, grid[-1])
        allowed = [t for t in self.trials if t.reaches and t.bytes <= at_most]
        return min(allowed, key=lambda t: (t.bytes, t.k), default=None)

    def best_within(self, codecs: Sequence[Codec], at_most: float) -> Trial | None:
        """What finds most within that many bytes: of each codec as many components as fit."""
        for codec in codecs:
            fits = [k for k in self._grid(codec) if self.cost(codec, k) <= at_most]
            if fits and not any((t.codec, t.k) == (codec, fits[-1]) for t in self.trials):
                self._try(codec, fits[-1])
        allowed = [t for t in self.trials if t.bytes <= at_most]
        return max(allowed, key=lambda t: (t.recall.value, -t.bytes), default=None)

    def _grid(self, codec: Codec) -> list[int]:
        return [k for k in grid_of(self._space.most) if k % codec.step == 0]

    def _rules_out(self, trial: Trial, codec: Codec) -> bool:
        """Whether a trial that failed says that this codec, at as many components, fails too.

        A product quantizer has more from its bits than a scalar one: at high resolution a quarter
        of a bit for each dimension by the shape of its cells, and half the binary logarithm of
        arithmetic over geometric mean of the variances by spreading them (Gersho and Gray 1992).
        """
        if trial.reaches or trial.codec.trained > codec.trained:
            return False
        gain = 0.0
        if codec.trained and not trial.codec.trained:
            variances = self._space.variances[: trial.k]
            gain = 0.25 + 0.5 * float(np.log2(variances.mean()) - np.log2(variances).mean())
        return trial.codec.bits >= codec.bits + gain

    def _try(self, codec: Codec, k: int) -> Trial:
        """Recall of this codec at this number of components, in one pass."""
        self._tell(f"trying {codec.name} × {k}")
        space, queries = self._space, self._queries
        fitted = codec.fit(space, k, self._sample, self._seed)
        axes = fitted.axes(space).T
        count = min(self._among + queries.extra, space.n)
        search = Nearest(queries.prepared @ axes, count, space)
        for start, rows in space.pieces(self._vectors):
            search.add(start, fitted.stored(rows @ axes))
        recall = Recall.of(queries.recalls(search.result()[1], self._among))
        trial = Trial(
            codec=codec,
            k=k,
            bytes=self.cost(codec, k),
            recall=recall,
            reaches=recall.reaches(self._recall),
            fitted=fitted,
        )
        self.trials.append(trial)
        return trial
