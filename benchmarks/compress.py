"""What `lowland compress` makes of embeddings: bytes, recall, queries a second; foretold and found.

    exact        all vectors in float32, compared with all of them (faiss's IndexFlat)
    SQ8, SQ4     faiss's scalar quantizers of all dimensions, without anything before them
    fewest       `prefer="bytes"`, at the target
    reranked     the same, the first 4·k put in order by the vectors themselves
    capped       the highest recall within 48 bytes per vector
    fastest      `prefer="speed"`

on vectors that are generated like embeddings (clusters of clusters, variances that decay as a
power) and on the files that are named. A thousand vectors are taken out of each first: they are
queries that no index holds and no choice has seen, and recall is measured on them through the
folder that was written and loaded again. Beside it stands what the record foretold: recall with
its 95% interval on other queries, and bytes per vector, against those of the file. Queries a second
are of all queries at once and of one at a time, by the same threads, each the best of a few times.
Last, a file of 256 columns that is read in pieces.

    python benchmarks/compress.py [FILE ...] [--rows 100000] [--file-rows 1000000] [--quick]
        [--target recall@10=0.95] [--out FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from lowland.embeddings import Target, compress, load, open_vectors
from rounds import save

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]

ROWS, FILE_ROWS, QUICK = 100_000, 1_000_000, (5_000, 20_000)
WIDTH, FILE_WIDTH, QUICK_WIDTH = 384, 256, 64
QUERIES = 1000
REPEATS = 3
CAP = 48
"""Bytes per vector of `capped`."""


def generated(n: int, d: int, seed: int = 0) -> Floats:
    """Unit vectors around 50 topics of 40 themes each; variance of component j falls as 1/j."""
    draws = np.random.default_rng(seed)
    scales = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    turn = np.linalg.qr(draws.standard_normal((d, d)))[0].astype(np.float32)
    topics = draws.standard_normal((50, d), dtype=np.float32) * scales
    themes = (
        topics.repeat(40, 0) + 0.7 * draws.standard_normal((2000, d), dtype=np.float32) * scales
    )
    x = themes[draws.integers(0, 2000, n)]
    x += 0.5 * draws.standard_normal((n, d), dtype=np.float32) * scales
    x @= turn
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def per_second(search: Callable[[Floats], Any], queries: Floats) -> tuple[float, float]:
    """Queries a second, all at once and one at a time."""
    search(queries[:8])
    together = min(_seconds(lambda: search(queries)) for _ in range(REPEATS))
    some = queries[:100]
    alone = min(
        _seconds(lambda: [search(some[i : i + 1]) for i in range(len(some))])
        for _ in range(REPEATS)
    )
    return len(queries) / together, len(some) / alone


def _seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def rows_of(name: str, x: Floats, target: str) -> Iterator[Row]:
    """Every way for vectors by cosine."""
    k = Target.parse(target).k
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    taken = np.zeros(len(x), bool)
    taken[np.random.default_rng(1).choice(len(x), min(QUERIES, len(x) // 4), replace=False)] = True
    queries, x = x[taken], np.ascontiguousarray(x[~taken])
    true = None

    def row(way: str, search: Any, size: float, made: float, **more: Any) -> Row:
        nonlocal true
        found = search(queries)[1]
        true = found if true is None else true
        shares = [len(set(a) & set(b)) / k for a, b in zip(found, true, strict=True)]
        together, alone = per_second(search, queries)
        return {
            **{"data": name, "n": len(x), "d": x.shape[1], "way": way, "found": ""},
            **{"recall": float(np.mean(shares)), "bytes": size, "per_second": together},
            **{"alone_per_second": alone, "seconds": made, **more},
        }

    exact = faiss.IndexFlatIP(x.shape[1])
    made = _seconds(lambda: exact.add(x))
    yield row("exact", lambda q: exact.search(q, k), 4.0 * x.shape[1], made)
    for way in ("SQ8", "SQ4"):
        index = faiss.index_factory(x.shape[1], way, faiss.METRIC_INNER_PRODUCT)
        made = _seconds(lambda index=index: (index.train(x[:65_536]), index.add(x)))
        yield row(way, lambda q, i=index: i.search(q, k), index.code_size, made)
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("fewest", {"target": target}),
        ("reranked", {"target": target, "rerank": 4}),
        ("capped", {"target": f"recall@{k}", "at_most": CAP}),
        ("fastest", {"target": target, "prefer": "speed"}),
    )
    for way, options in ways:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            record = compress(x, **options, out=out).to_dict()
            loaded = load(out, features=x)
            recall, after = record["recall"], record["after"]
            kind = f", {record['index']}" * (record["index"] != "flat")
            yield row(
                way,
                lambda q, c=loaded: c.search(q, k),
                after["index_bytes"] / len(x),
                record["seconds"],
                found=f"{record['quantizer']} × {record['dimensions']}{kind}",
                foretold={
                    **{"recall": recall["value"], "low": recall["low"], "high": recall["high"]},
                    **{"bytes": after["bytes"], "setting": record["setting"]},
                },
            )


def table(rows: list[Row]) -> str:
    head = f"{'':10s} {'':22s} {'recall':>7s} {'foretold':>25s} {'bytes':>8s} {'foretold':>8s} "
    head += f"{'fewer':>7s} {'q/s':>9s} {'alone':>8s}"
    lines, data = [f"{head} {'made in':>8s}"], ""
    for row in rows:
        if row["data"] != data:
            data, before = row["data"], row["bytes"]
            lines.append(f"{data}: {row['n']:,} × {row['d']}")
        told, recall, size = row.get("foretold"), "", ""
        if told:
            recall = f"{told['recall']:.4f} [{told['low']:.4f}, {told['high']:.4f}]"
            size = f"{told['bytes']:.1f}"
        lines.append(
            f"{row['way']:10s} {row['found']:22s} {row['recall']:7.4f} {recall:>25s} "
            f"{row['bytes']:8.1f} {size:>8s} {before / row['bytes']:6.1f}× "
            f"{row['per_second']:9,.0f} {row['alone_per_second']:8,.0f} {row['seconds']:7.1f}s"
        )
    return "\n".join(lines)


def streamed(n: int, d: int, target: str) -> Row:
    """A file, larger pieces of which are never in memory at once: time and growth of memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
        step = 50_000
        for start in range(0, n, step):
            rows[start : start + step] = generated(min(step, n - start), d, seed=start)
        del rows
        found = compress(path, target=target, quantizers="float32,sq8,sq4")
    words = f"{found.quantizer} × {found.dimensions}"
    return {
        **{"data": "a file", "n": n, "d": d, "way": "fewest", "found": words},
        **{"recall": found.recall.value, "bytes": found.after.bytes, "seconds": found.seconds},
        "trials": len(found.trials),
        "per_second": found.after.queries_per_second,
        "before_per_second": found.before.queries_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help=".npy, .safetensors or Parquet")
    parser.add_argument("--target", default="recall@10=0.95")
    parser.add_argument("--rows", type=int, default=ROWS, help="vectors that are generated")
    parser.add_argument("--file-rows", type=int, default=FILE_ROWS, help="vectors of the file")
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    n, file_rows = QUICK if options.quick else (options.rows, options.file_rows)
    d, file_width = (QUICK_WIDTH, QUICK_WIDTH) if options.quick else (WIDTH, FILE_WIDTH)
    rows = list(rows_of("generated", generated(n, d), options.target))
    for file in options.files:
        x = np.concatenate([part for _, part in open_vectors(file).pieces()])
        rows += rows_of(Path(file).stem, x, options.target)
    threads = faiss.omp_get_max_threads()
    text = f"{options.target}, capped at {CAP} bytes, {threads} thread(s)\n{table(rows)}"
    large = streamed(file_rows, file_width, options.target)
    text += (
        f"\na file of {large['n']:,} × {large['d']}: {large['found']}, recall "
        f"{large['recall']:.4f}, {large['bytes']:.1f} bytes, {large['trials']} trials in "
        f"{large['seconds']:.1f} s, "
        f"{large['before_per_second']:,.0f} queries a second before and "
        f"{large['per_second']:,.0f} after"
    )
    print(text)
    save(options.out, text, {"rows": rows, "file": large})


if __name__ == "__main__":
    main()
