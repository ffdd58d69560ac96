"""What the instruments of features cost: against NumPy and scikit-learn, and as sizes grow.

Each row has a prediction, made from the operations and bytes of the docstring and two numbers of
this machine measured first: multiply-adds per second of a float64 product, and bytes per second of
a copy. Ours and the other are timed in turn, in every round in another order; the times are
medians, and `ratio` is other/ours (more than 1: ours is faster), the median over rounds. On a
machine with other work set OMP_NUM_THREADS=1: threads that wait for each other wait long.

    python benchmarks/measure_features.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.measure.features import (
    active_units,
    capture,
    cka,
    distinct_units,
    knn_error,
    neural_collapse,
    retrieval_error,
)
from lowland.models import create
from rounds import interleaved, save

Row = dict[str, Any]
Step = Callable[[], Any]


class Machine:
    """Two numbers of this machine, from the best of a few tries.

    Attributes:
        rate: multiply-adds per second of a float64 matrix product.
        bandwidth: bytes read and written per second by a copy.
    """

    def __init__(self) -> None:
        a = torch.randn(1024, 1024, dtype=torch.float64)
        self.rate = 1024**3 / _best(lambda: a @ a)
        b = torch.randn(2**24)
        self.bandwidth = 2 * 4 * 2**24 / _best(b.clone)

    def seconds(self, operations: float = 0.0, bytes_moved: float = 0.0) -> float:
        """What so much work takes if nothing else does."""
        return operations / self.rate + bytes_moved / self.bandwidth


def _best(step: Step, tries: int = 5) -> float:
    def once() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return min(once() for _ in range(tries))


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """ReLU features of which every other unit nearly repeats the one before it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, (d + 1) // 2, generator=generator)
    near = x + 0.05 * torch.randn(x.shape, generator=generator)
    return torch.stack([x, near], 2).flatten(1)[:, :d].relu_()


def compared(
    name: str, size: str, ours: Step, other: Step | None, predicted: float, rounds: int, note: str
) -> Row:
    """One row of the table."""
    steps = {"ours": ours} | ({"other": other} if other is not None else {})
    times = interleaved(steps, rounds, seed=0)
    found = {key: statistics.median(own) for key, own in times.items()}
    ratio = None
    if other is not None:
        pairs = zip(times["other"], times["ours"], strict=True)
        ratio = statistics.median(b / a for b, a in pairs)
    return {
        "name": name,
        "size": size,
        "ours_s": found["ours"],
        "other_s": found.get("other"),
        "ratio": ratio,
        "predicted_s": predicted,
        "note": note,
    }


def corrcoef_loop(x: Tensor, limit: float = 0.95) -> int:
    """Distinct units from the whole correlation matrix."""
    table = np.abs(np.corrcoef(x.numpy().T))
    kept = np.ones(len(table), dtype=bool)
    for j in range(len(table)):
        if kept[j]:
            kept[j + 1 :] &= table[j, j + 1 :] <= limit
    return int(kept.sum())


def gram_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased CKA from n×n Gram matrices."""
    n = len(x)
    grams = []
    for features in (x, y):
        k = features.double().numpy() @ features.double().numpy().T
        np.fill_diagonal(k, 0.0)
        grams.append(k)

    def hsic(k: Any, m: Any) -> float:
        rows, columns = k.sum(1), m.sum(1)
        total = (k * m).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2))
        return float(total - 2 / (n - 2) * (rows @ columns))

    k, m = grams
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def against_others(machine: Machine, quick: bool) -> list[Row]:
    """Distinct units, CKA, neighbours and retrieval beside the plain way."""
    n, d = (512, 1024) if quick else (2048, 8192)
    rounds = 3
    x = features(n, d)
    assert distinct_units(x).value == corrcoef_loop(x)
    rows = [
        compared(
            "distinct units", f"{n} x {d}", lambda: distinct_units(x), lambda: corrcoef_loop(x),
            # half of the units are kept, each block meets those; float32 is twice as fast
            machine.seconds(n * (d * d / 4 + d * min(d, 1024)) / 2, 24 * n * d), rounds,
            f"np.corrcoef and a loop; memory for products {_mib(4 * min(1024, d) * d)}, "
            f"np.corrcoef {_mib(2 * 8 * d * d)}",
        )
    ]  # fmt: skip
    n, d = (1000, 256) if quick else (5000, 512)
    a, b = features(n, d), features(n, d, 1)
    assert math.isclose(cka(a, b).value, gram_cka(a, b), abs_tol=1e-9)
    rows.append(
        compared(
            "CKA, long", f"{n} x {d}", lambda: cka(a, b), lambda: gram_cka(a, b),
            machine.seconds(3 * n * d * d, 2 * 5 * 8 * n * d), rounds,
            "n×n Gram matrices",
        )
    )  # fmt: skip
    n, d = (200, 2000) if quick else (1000, 16384)
    c, e = features(n, d), features(n, d, 1)
    rows.append(
        compared(
            "CKA, wide", f"{n} x {d}", lambda: cka(c, e), lambda: gram_cka(c, e),
            machine.seconds(n * n * d, 2 * 5 * 8 * n * d), rounds, "n×n Gram matrices",
        )
    )  # fmt: skip
    return [*rows, *_searches(machine, quick)]


def _searches(machine: Machine, quick: bool) -> list[Row]:
    n, d = (1000, 64) if quick else (4000, 512)
    x, y = features(n, d), torch.arange(n) % 10
    q = x + torch.randn(x.shape)
    rows = []
    neighbours = _scikit_neighbours(x, y, q)
    rows.append(
        compared(
            "kNN error", f"{n} of {n} x {d}", lambda: knn_error(x, y, q, y), neighbours,
            machine.seconds(n * n * d, 8 * 8 * n * n), 3,
            "scikit-learn, brute force, cosine, float64"
            if neighbours
            else "scikit-learn is not installed",
        )
    )  # fmt: skip

    def sorting() -> float:
        a, b = (v.double().numpy() for v in (x, q))
        table = (a / np.linalg.norm(a, axis=1)[:, None]) @ (
            b / np.linalg.norm(b, axis=1)[:, None]
        ).T
        own = np.arange(n)
        return float((table.argsort(1)[:, -1] != own).mean() + (table.argsort(0)[-1] != own).mean())

    rows.append(
        compared(
            "retrieval error", f"{n} x {d}", lambda: retrieval_error(x, q), sorting,
            machine.seconds(n * n * d, 6 * 8 * n * n), 3, "sorting all similarities",
        )
    )  # fmt: skip
    return rows


def _scikit_neighbours(x: Tensor, y: Tensor, q: Tensor) -> Step | None:
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError:
        return None
    known, asked = x.double().numpy(), q.double().numpy()

    def score() -> float:
        model = KNeighborsClassifier(10, metric="cosine", algorithm="brute").fit(known, y.numpy())
        return float(model.score(asked, y.numpy()))

    return score


def capture_overhead(machine: Machine, quick: bool) -> list[Row]:
    """Capture over a plain pass; the features are copied once from the block and once joined."""
    images = torch.randn(64 if quick else 256, 3, 32, 32)
    batches = list(images.split(64))
    model = create("preact-resnet18", shape=(3, 32, 32), classes=10, width=16).eval()
    rows = []

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    for blocks, options in (
        ("block3", {}),
        ("block*", {}),
        ("block*", {"spatial": "mean"}),
    ):
        found = capture(model, batches, blocks, **options)  # type: ignore[arg-type]
        size = sum(rows_of.numel() * 4 for rows_of in found.values())
        whole = sum(f.numel() * 4 for f in capture(model, batches, blocks).values())
        moved = 4 * size if not options else whole + 4 * size
        base = _best(plain, 3)

        def caught(blocks: str = blocks, options: dict[str, Any] = options) -> None:
            capture(model, batches, blocks, **options)

        what = ", pooled" if options else ""
        row = compared(
            f"capture {blocks}{what}", f"{len(images)} images", caught, plain,
            base + machine.seconds(0, moved), 5, "",
        )  # fmt: skip
        row["note"] = (
            f"plain forward; {_mib(size)} kept; overhead {100 * (1 / row['ratio'] - 1):.1f}%, "
            f"predicted {100 * machine.seconds(0, moved) / base:.1f}%"
        )
        rows.append(row)
    return rows


def growth(machine: Machine, quick: bool) -> list[Row]:
    """Seconds over a decade of n and of d, and the power that fits, beside what is stated."""
    n, d = (200, 40) if quick else (1000, 200)
    labels = torch.arange(10 * n) % 10
    cases: dict[str, tuple[Callable[[Tensor], Any], tuple[float, float]]] = {
        "active units": (active_units, (1, 1)),
        "distinct units": (distinct_units, (1, 2)),
        "CKA": (lambda x: cka(x, x.flip(1)), (1, 2)),
        "neural collapse": (lambda x: neural_collapse(x, labels[: len(x)]), (1, 1)),
        "retrieval error": (lambda x: retrieval_error(x, x.flip(1)), (2, 1)),
        "kNN error": (lambda x: knn_error(x, labels[: len(x)], x, labels[: len(x)]), (2, 1)),
    }
    rows = []
    for name, (measure, stated) in cases.items():
        for axis, (n1, d1, n2, d2) in {
            "n": (n, d, 10 * n, d),
            "d": (2 * n, d, 2 * n, 10 * d),
        }.items():
            small, large = features(n1, d1), features(n2, d2)
            steps = {"small": partial(measure, small), "large": partial(measure, large)}
            times = interleaved(steps, 3, seed=0)
            low, high = (statistics.median(times[key]) for key in ("small", "large"))
            power = math.log10(high / low)
            rows.append(
                {
                    "name": f"{name}: growth with {axis}",
                    "size": f"{n1} x {d1} to {n2} x {d2}",
                    "ours_s": high,
                    "other_s": low,
                    "ratio": low / high,
                    "predicted_s": None,
                    "note": f"power {power:.2f}, stated at most {stated[axis == 'd']}",
                }
            )
    return rows


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def rows(quick: bool) -> list[Row]:
    """All rows of the table."""
    machine = Machine()
    return [
        *against_others(machine, quick),
        *capture_overhead(machine, quick),
        *growth(machine, quick),
    ]


def table(found: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'':36}{'size':>26}{'ours s':>10}{'other s':>10}{'ratio':>8}{'predicted':>11}  note"]
    for row in found:
        numbers = [row["ours_s"], row["other_s"], row["ratio"], row["predicted_s"]]
        shown = ["" if v is None else f"{v:.3g}" for v in numbers]
        lines.append(
            f"{row['name']:36}{row['size']:>26}{shown[0]:>10}{shown[1]:>10}{shown[2]:>8}"
            f"{shown[3]:>11}  {row['note']}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = rows(options.quick)
    print(table(found))
    save(options.out, table(found), {"rows": found})


if __name__ == "__main__":
    main()
