"""Ways to store the coordinates of a vector, and what faiss makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lowland.core.errors import unknown
from lowland.core.seeds import derived_seed
from lowland.embeddings.package import faiss
from lowland.embeddings.space import Space
from lowland.embeddings.vectors import Floats

PER_CENTROID = 40
"""Training vectors for each centroid of product quantization: one more than faiss asks for."""

ROUNDS = 10
"""Of k-means: the error hardly falls after."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How the k coordinates of a vector are stored.

    Attributes:
        name: on the command line.
        bits: for each dimension.
        words: what it is.
        kind: of faiss's scalar quantizers, or ``"flat"`` or ``"product"``.
        mixed: what is done to the components first. ``"rotated"``: by a random rotation, which
            gives all dimensions the same variance. ``"allocated"``: sorted into groups whose
            variances have the same product, the best groups for Gaussian vectors (Ge et al. 2013).
        scaled: divided by the root mean square of ‖z‖, for quantizers of fixed range.
        clipped: share of each coordinate's values that lie past either end of a scalar quantizer's
            range: with few bits the steps between matter more.
        step: dimensions that share a code, so that k is a multiple of it.
        code_bits: of such a code: 8 are 256 centroids.
    """

    name: str
    bits: int
    words: str
    kind: str
    mixed: Literal["", "rotated", "allocated"] = ""
    scaled: bool = False
    clipped: float = 0.0
    step: int = 1
    code_bits: int = 8

    @property
    def centroids(self) -> int:
        """Of each group of dimensions; for ``"product"`` alone."""
        return int(2**self.code_bits)

    @property
    def trained(self) -> bool:
        """Whether it is slow to fit: by k-means."""
        return self.kind == "product"

    def code_bytes(self, k: int) -> int:
        """Bytes of one vector."""
        return -(-self.bits * k // 8)

    def bytes_per_vector(self, k: int, dimension: int, n: int) -> float:
        """The same with the shares of the transform's matrix and of the codebook in it."""
        shared = 4 * k * (dimension + 1)
        shared += 4 * self.centroids * k if self.trained else 8 * k
        return self.code_bytes(k) + shared / n

    def fit(self, space: Space, k: int, sample: Floats, seed: int) -> Fitted:
        """A codec for the first k components.

        Args:
            space: the components.
            k: how many.
            sample: (s, ≥ k) coordinates to train on.
            seed: of the rotation and k-means.
        """
        library = faiss()
        scale = 1.0
        if self.scaled:
            scale = 1.0 / float(np.sqrt(space.variances[:k].sum()))
        mix = self._mix(space, k, seed)
        index = self._index(library, k, space.metric.kind(library), seed)
        fitted = Fitted(codec=self, k=k, mix=mix, scale=scale, index=index)
        index.train(fitted.coordinates(sample))
        return fitted

    def _mix(self, space: Space, k: int, seed: int) -> Floats | None:
        if self.mixed == "rotated":
            draws = np.random.default_rng(derived_seed(seed, "rotation", k))
            q, r = np.linalg.qr(draws.standard_normal((k, k)))
            return (q * np.sign(np.diag(r))).astype(np.float32)
        if self.mixed == "allocated":
            order = allocated(space.variances[:k], k // self.step)
            return np.eye(k, dtype=np.float32)[:, order]
        return None

    def _index(self, library: Any, k: int, kind: Any, seed: int) -> Any:
        if self.kind == "flat":
            return library.IndexFlat(k, kind)
        if self.kind == "product":
            index = library.IndexPQ(k, k // self.step, self.code_bits, kind)
            index.pq.cp.niter, index.pq.cp.seed = ROUNDS, derived_seed(seed, "k-means") % 2**31
            index.pq.cp.max_points_per_centroid = PER_CENTROID
            return index
        quantizer = library.ScalarQuantizer
        index = library.IndexScalarQuantizer(k, getattr(quantizer, self.kind), kind)
        self.set_range(index.sq)
        return index

    def set_range(self, quantizer: Any) -> None:
        """Tell a scalar quantizer of faiss what to clip."""
        if self.clipped:
            quantizer.rangestat = faiss().ScalarQuantizer.RS_quantiles
            quantizer.rangestat_arg = self.clipped


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A codec that was fitted to the first k components.

    Attributes:
        codec, k: which.
        mix: (k, k) orthogonal, or None.
        scale: coordinates are multiplied by it.
        index: of faiss, trained and empty.
    """

    codec: Codec
    k: int
    mix: Floats | None
    scale: float
    index: Any

    def coordinates(self, z: Floats) -> Floats:
        """What is stored of components (b, ≥ k): (b, k), which may be a view of them."""
        y = z[:, : self.k]
        if self.mix is not None:
            y = y @ self.mix
        if self.scale != 1.0:
            y = y * np.float32(self.scale)
        return np.ascontiguousarray(y)

    def stored(self, y: Floats) -> Floats:
        """What comes back from storage of coordinates (b, k): encoded and decoded."""
        if self.codec.kind == "flat":
            return y
        decoded: Floats = self.index.sa_decode(self.index.sa_encode(y))
        return decoded

    def axes(self, space: Space) -> Floats:
        """(k, d): the whole linear map, from prepared vectors to coordinates."""
        rows = space.axes[: self.k]
        if self.mix is not None:
            rows = self.mix.astype(np.float64).T @ rows
        found: Floats = (rows * self.scale).astype(np.float32)
        return found


def allocated(variances: Any, groups: int) -> list[int]:
    """An order of components in which consecutive groups have nearly the same product of variances.

    The largest that is left goes to the group with the smallest product so far that has room.

    >>> allocated([8.0, 4.0, 2.0, 1.0], 2)
    [0, 3, 1, 2]
    """
    logs = np.log(np.maximum(np.asarray(variances, dtype=np.float64), 1e-300))
    logs = logs - logs.min() + 1e-9  # so that every further one counts
    room = len(logs) // groups
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for place, size in enumerate(logs):
        group = int(np.argmin(np.where([len(m) < room for m in members], sums, np.inf)))
        members[group].append(place)
        sums[group] += size
    return [place for group in members for place in group]


def _scalar(name: str, bits: int, words: str, kind: str, clipped: float = 0.0) -> Codec:
    return Codec(name=name, bits=bits, words=words, kind=kind, mixed="rotated", clipped=clipped)


def _normal(bits: int) -> Codec:
    words = f"scalar, {bits} bit{'s' * (bits > 1)}, levels for normal coordinates"
    kind = f"QT_{bits}bit_tqmse"
    return Codec(name=f"tq{bits}", bits=bits, words=words, kind=kind, mixed="rotated", scaled=True)


def _product(bits: int, code_bits: int = 8) -> Codec:
    step, shown = code_bits // bits, "" if code_bits == 8 else f"x{code_bits}"
    return Codec(
        name=f"pq{bits}{shown}",
        bits=bits,
        words=f"product quantizer, {code_bits} bits for {step} dimensions",
        kind="product",
        mixed="allocated",
        step=step,
        code_bits=code_bits,
    )


_ALL = (
    Codec(name="float32", bits=32, words="as they are", kind="flat"),
    Codec(name="float16", bits=16, words="half precision", kind="QT_fp16", scaled=True),
    _scalar("sq8", 8, "scalar, 8 bits", "QT_8bit"),
    _scalar("sq6", 6, "scalar, 6 bits", "QT_6bit", clipped=0.001),
    _scalar("sq4", 4, "scalar, 4 bits", "QT_4bit", clipped=0.01),
    *map(_normal, (4, 3, 2, 1)),
    *map(_product, (4, 2, 1)),
    _product(2, 4),
    _product(1, 4),
)

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in _ALL}
"""All codecs by name. tq: the levels that are best for a normal distribution, after a random
rotation (Lloyd 1982, Max 1960), where faiss has them."""


def choose_codecs(names: str, sample: int) -> list[Codec]:
    """Codecs by name, with commas; all if none, as far as they can be fitted here.

    Args:
        names: as ``"sq8,pq2"``.
        sample: vectors to train on.

    Raises:
        InputError: unknown, or not to be had here.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in CODECS:
            raise unknown("quantizer", name, CODECS)
    usable = [c for c in CODECS.values() if _usable(c, sample)]
    chosen = [c for c in usable if not wanted or c.name in wanted]
    missing = [name for name in wanted if name not in {c.name for c in chosen}]
    if missing:
        raise unknown(
            f"quantizer for {sample} training vectors and this faiss",
            missing[0],
            [c.name for c in usable],
        )
    return chosen


def _usable(codec: Codec, sample: int) -> bool:
    if codec.trained:
        return sample >= codec.centroids * (PER_CENTROID - 1)
    return codec.kind == "flat" or hasattr(faiss().ScalarQuantizer, codec.kind)
