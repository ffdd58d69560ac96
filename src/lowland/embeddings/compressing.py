"""From embeddings and a target to the fewest bytes, or the most queries a second."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowland.core.errors import InputError, unknown
from lowland.core.provenance import provenance
from lowland.core.seeds import derived_seed
from lowland.embeddings.choosing import Search, Tell, Trial
from lowland.embeddings.codecs import Codec, choose_codecs
from lowland.embeddings.compressed import Compressed
from lowland.embeddings.fastest import Built, Speeds, speed_of
from lowland.embeddings.files import open_vectors
from lowland.embeddings.folder import check_folder, write_folder
from lowland.embeddings.indexes import with_transform
from lowland.embeddings.metric import Metric
from lowland.embeddings.package import faiss, reserve_buffer
from lowland.embeddings.queries import choose_queries
from lowland.embeddings.record import Compression, Side, trial_row
from lowland.embeddings.space import Space, find_space
from lowland.embeddings.target import Target
from lowland.embeddings.truth import Queries, Recall, exact_speed
from lowland.embeddings.vectors import Floats, Vectors

PREFERENCES = ("bytes", "speed")
QUERIES = 2000
SAMPLE = 2**24
"""Elements of the sample that quantizers are trained on: 64 MiB of float32."""

FAST = ("float32", "sq8")
"""Codecs whose codes faiss compares fastest, alone or in lists and graphs."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compress; see `compress`."""

    target: Target
    metric: Metric
    prefer: str
    at_most: float
    quantizers: str
    rerank: int
    query_count: int
    seed: int


def compress(
    features: Any,
    *,
    target: str | Target = "recall@10=0.99",
    metric: str = "cosine",
    queries: Any = None,
    query_count: int = QUERIES,
    prefer: str = "bytes",
    at_most: float | None = None,
    quantizers: str = "",
    rerank: int = 1,
    column: str | None = None,
    queries_column: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    tell: Tell = lambda words: None,
) -> Compression:
    """Compress embeddings as far as a target for recall allows.

    Recall@k is the mean over queries of the share of a query's k nearest vectors, by the metric and
    in float32, that are among the k found; in the place of the k-th, one as near as it is right
    too. One half of the queries chooses (its mean, less its standard error, must reach the target),
    the other half gives the recall that is reported.

    Vectors are normalised (cosine) or centred (l2), turned to their principal components (for inner
    products those of the second moments, see `lowland.embeddings.metric`), cut to the first of
    them, and stored by a quantizer. Of all pairs of a number of components and a quantizer the one
    with the fewest bytes is found, by halving, since recall rises with the number.

    Args:
        features: (n, d) array or tensor; path of a .npy, .safetensors or Parquet file, or of a
            folder of them; or a list of paths, read one after the other.
        target: ``"recall@10=0.99"``: the fewest bytes at this recall. ``"recall@10"``: the highest
            recall within `at_most` bytes.
        metric: ``"cosine"``, ``"inner-product"`` or ``"l2"``.
        queries: (q, d) the same way; by default vectors are drawn, each of which is not its own
            neighbour.
        query_count: how many are drawn, or used of those given.
        prefer: ``"bytes"``: the fewest. ``"speed"``: the most queries a second, among flat indexes,
            inverted lists and graphs over float32 and 8-bit codes.
        at_most: bytes per vector that may not be exceeded.
        quantizers: names of `CODECS` with commas; all by default.
        rerank: put the first k·rerank in order by the vectors themselves, which then must be at
            hand; not for Parquet, of which single rows cannot be read.
        column: tensor or column of the files, where they have several.
        queries_column: the same of `queries`; by default the same name.
        seed: of what is drawn.
        out: folder to write to; None: nothing is written.
        tell: called with what is being done.

    Cost: about 2 passes of n·d² multiply-adds for the components; then for each of some 15 trials
    n·d·k for the coordinates and q·n·k for the search. Memory: the index, 2·d² float64, a training
    sample of 64 MiB and a few pieces of 4 MiB, however large the file.

    Raises:
        InputError: unusable vectors, queries or options, or a target that cannot be met: then it
            says what could be, and nothing is written.
    """
    begun = time.perf_counter()
    wanted = target if isinstance(target, Target) else Target.parse(str(target))
    options = Options(
        target=wanted,
        metric=Metric(metric),
        prefer=prefer,
        at_most=np.inf if at_most is None else at_most,
        quantizers=quantizers,
        rerank=rerank,
        query_count=query_count,
        seed=seed,
    )
    vectors = open_vectors(features, column=column)
    stamps = _stamps(vectors)
    codecs = _check(vectors, options)
    if queries is None and queries_column is not None:
        raise InputError(
            f"--queries-column {queries_column!r}: is of a file of --queries: name that too"
        )
    if queries is not None and _same(features, column, queries, queries_column or column):
        raise InputError(
            f"queries {vectors.name}: are the vectors themselves, of which each is its own nearest "
            "neighbour: leave --queries out, and vectors are drawn"
        )
    if out is not None:
        check_folder(Path(out))
    reserve_buffer("NumPy")
    tell(f"components of {vectors.n:,} × {vectors.dimension}")
    space = find_space(vectors, options.metric)
    reserve_buffer("faiss")
    tell("true neighbours")
    if queries_column is None and not str(queries).lower().endswith(".npy"):
        queries_column = column
    asked, about = choose_queries(vectors, space, queries, options, queries_column)
    validation, test = _halves(asked, seed)
    trials, built = _chosen(vectors, space, validation, codecs, options, tell)
    result = _result(vectors, space, built, options)
    tell("recall and speed on the other queries")
    found = Compression(
        features=_about(vectors, column),
        metric=metric,
        target=str(wanted),
        k=wanted.k,
        wanted=wanted.recall,
        prefer=prefer,
        at_most=at_most,
        quantizer=built.fitted.codec.name,
        dimensions=built.fitted.k,
        index=built.name,
        setting=built.setting,
        rerank=rerank,
        variance=space.share(built.fitted.k),
        recall=Recall(0, 0, 0, 0, 0),
        validation=built.recall,
        before=Side(
            dimensions=vectors.dimension,
            bytes=4.0 * vectors.dimension,
            queries_per_second=exact_speed(vectors, space, test),
        ),
        after=Side(dimensions=built.fitted.k, bytes=built.bytes, queries_per_second=None),
        queries={**about, "validation": len(validation), "test": len(test)},
        trials=[trial_row(trial) for trial in trials],
        threads=faiss().omp_get_max_threads(),
        seed=seed,
        seconds=0.0,
        provenance=provenance(),
        result=result,
    )
    return _finished(found, test, out, begun, lambda: _check_unchanged(vectors, stamps))


def _check(vectors: Vectors, options: Options) -> list[Codec]:
    """Refuse what cannot be done before anything is read; the codecs."""
    n, k = vectors.n, options.target.k
    if n < 4:
        raise InputError(f"{vectors.name}: {n} vector{'s' * (n != 1)}: give at least 4 to search")
    if k >= n:
        raise InputError(f"target {options.target}: k is {k} of {n} vectors: give k below {n}")
    if options.prefer not in PREFERENCES:
        raise unknown("preference", options.prefer, PREFERENCES)
    if options.rerank < 1:
        raise InputError(f"rerank: {options.rerank}: give 1 (not) or more")
    if options.rerank > 1 and k * options.rerank >= n:
        raise InputError(
            f"rerank: {options.rerank} times {k} are all of {n} vectors: give below {-(-n // k)}"
        )
    if options.rerank > 1 and not vectors.direct:
        raise InputError(
            f"{vectors.name}: single rows of Parquet cannot be read fast enough to rerank by: "
            "save the vectors as .npy or .safetensors"
        )
    if options.target.recall is None and (options.prefer == "speed" or options.at_most == np.inf):
        raise InputError(
            f"target {options.target} names no share: give {options.target}=0.99, or the bytes per "
            "vector that may not be exceeded with --at-most (without --prefer speed)"
        )
    if not options.at_most > 0:
        raise InputError(f"at most {options.at_most:g} bytes per vector: give more than 0")
    if options.query_count < 4:
        raise InputError(f"{options.query_count} queries: give at least 4, half of them to choose")
    return choose_codecs(options.quantizers, _sample_size(vectors))


def _sample_size(vectors: Vectors) -> int:
    return min(vectors.n, 2**16, max(1, SAMPLE // vectors.dimension))


def _same(features: Any, column: str | None, queries: Any, queries_column: str | None) -> bool:
    """Whether both are one array, or one path with the same column."""
    if isinstance(features, str | Path) and isinstance(queries, str | Path):
        return Path(features).resolve() == Path(queries).resolve() and column == queries_column
    return features is queries


def _halves(queries: Queries, seed: int) -> tuple[Queries, Queries]:
    order = np.random.default_rng(derived_seed(seed, "halves")).permutation(len(queries))
    middle = len(order) // 2
    return queries.part(np.sort(order[:middle])), queries.part(np.sort(order[middle:]))


def _chosen(
    vectors: Vectors,
    space: Space,
    validation: Queries,
    codecs: Sequence[Codec],
    options: Options,
    tell: Tell,
) -> tuple[list[Trial], Built]:
    draws = np.random.default_rng(derived_seed(options.seed, "sample"))
    places = np.sort(draws.choice(vectors.n, _sample_size(vectors), replace=False))
    sample = space.coordinates(space.take(vectors, places))
    fast = options.prefer == "speed"
    # without a share to reach, everything does
    wanted = -np.inf if options.target.recall is None else options.target.recall
    search = Search(
        vectors,
        space,
        validation,
        sample,
        # half of what may be lost is left to lists and links
        recall=(1 + wanted) / 2 if fast else wanted,
        rerank=options.rerank,
        seed=options.seed,
        tell=tell,
    )
    speeds = Speeds(vectors, space, validation, wanted, options.rerank)
    built = _fastest(search, speeds, codecs, sample, options, tell) if fast else None
    if built is not None:
        return search.trials, built
    best, trials = _best(search, codecs, options, wanted), search.trials
    del sample, search  # codes need the memory
    tell(f"building flat of {best.codec.name} × {best.k}")
    return trials, speeds.flat(best)


def _fastest(
    search: Search,
    speeds: Speeds,
    codecs: Sequence[Codec],
    sample: Floats,
    options: Options,
    tell: Tell,
) -> Built | None:
    """The fastest index that reaches the target within the bytes; None if none does."""
    best: Built | None = None
    for codec in [c for c in codecs if c.name in FAST] or codecs:
        trial = search.fewest_bytes([codec], options.at_most)
        if trial is None:
            continue
        for built in speeds.candidates(trial, sample, options.at_most, tell):
            if built.reaches and (best is None or _faster(built, best)):
                best = built
    return best


def _faster(one: Built, other: Built) -> bool:
    return one.speed > other.speed


def _best(search: Search, codecs: Sequence[Codec], options: Options, wanted: float) -> Trial:
    """The trial with the fewest bytes that reaches the target, or finds most without a share.

    Raises:
        InputError: none does, with what could be.
    """
    best = None
    if options.target.recall is not None:
        best = search.fewest_bytes(codecs, options.at_most)
    # also where what was not tried, because others failed, reaches the target after all
    best = best or search.best_within(codecs, options.at_most)
    if best is None:
        raise InputError(
            f"no quantizer stores a vector in {options.at_most:g} bytes: allow more with --at-most"
        )
    if not best.recall.reaches(wanted):
        limit = f" at up to {options.at_most:g} bytes" if np.isfinite(options.at_most) else ""
        raise InputError(
            f"{options.target} is not reached{limit}: the best is {best.recall.value:.4f} ± "
            f"{best.recall.error:.4f}, {best.codec.name} × {best.k} at {best.bytes:.1f} bytes: "
            "allow more bytes or quantizers, rerank, or lower the target"
        )
    return best


def _result(vectors: Vectors, space: Space, built: Built, options: Options) -> Compressed:
    return Compressed(
        metric=space.metric,
        mean=space.mean.astype(np.float32),
        components=built.fitted.axes(space),
        scale=built.fitted.scale,
        index=with_transform(space, built.fitted, built.index),
        n=vectors.n,
        rerank=options.rerank,
        features=vectors if options.rerank > 1 else None,
    )


def _finished(
    found: Compression,
    test: Queries,
    out: str | Path | None,
    begun: float,
    check: Callable[[], None],
) -> Compression:
    """With recall and speed on the test half; written and read back where there is a folder.

    Raises:
        InputError: of `check`, after the last look at the vectors and before anything is written.
    """
    count = min(found.k + test.extra, found.features["n"])
    # of a query that finds itself, one more is asked for, and no more than one more put in order
    _, ids = found.result.search_among(test.raw, count, found.k * found.rerank + test.extra)
    speed = speed_of(found.result, test.raw, count)
    found = dataclasses.replace(
        found,
        recall=Recall.of(test.recalls(ids)),
        after=dataclasses.replace(found.after, queries_per_second=speed),
        seconds=time.perf_counter() - begun,
    )
    check()
    if out is None:
        return found
    record = found.to_dict()
    write_folder(Path(out), found.result, record)
    size = record["after"]["index_bytes"]
    return dataclasses.replace(found, after=dataclasses.replace(found.after, index_bytes=size))


def _stamps(vectors: Vectors) -> list[tuple[Path, int, int]]:
    """Size and time of change of the files; a look at files that are gone finds neither."""
    return [
        (path, found.st_size, found.st_mtime_ns) if (found := _stat(path)) else (path, -1, -1)
        for path in vectors.paths
    ]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _check_unchanged(vectors: Vectors, stamps: Sequence[tuple[Path, int, int]]) -> None:
    """Refuse what may be half of one file and half of another.

    Raises:
        InputError: a file has another size or time of change than `stamps` say, or is gone.
    """
    for now, before in zip(_stamps(vectors), stamps, strict=True):
        if now != before:
            raise InputError(
                f"{now[0]} changed while it was read: compress again; nothing is written"
            )


def _about(vectors: Vectors, column: str | None) -> dict[str, Any]:
    return {
        "name": vectors.name,
        "paths": [str(path.resolve()) for path in vectors.paths],
        "column": column,
        "fingerprint": vectors.fingerprint() if vectors.direct else None,
        "n": vectors.n,
        "dimension": vectors.dimension,
        "dtype": vectors.dtype,
    }
