"""What a feature rank costs: beside `svdvals`, scikit-learn's PCA and a forward pass.

    against svdvals    the published way, in float32, and `PCA(svd_solver="full")`, on the same
                       features in turn; `--full` at the paper's 10,240 x 16,384
    memory             growth of resident memory over the features, each in a process of its own
    against ViT-B/16   a rank at n=12,800 x d=1,024, against the forward passes over those images,
                       extrapolated from a few
    growth             seconds over a decade of n and of d, as powers, against what is promised
    bounds             a sketch against the exact rank, and how far apart its bounds are
    weights            all matrices of a ViT-B/16 against `svdvals` of each

Predictions come from operations and bytes, at rates of products and copies measured first. On a
machine with other work, ratios of processor time at one thread say more than those of the clock.

    python benchmarks/measure_rank.py [--quick | --full] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowland.measure.features.bounds import rank_bounds
from lowland.measure.features.eigenvalues import banded_solver
from lowland.measure.features.rank import feature_rank
from lowland.measure.weights.rank import weight_ranks
from rounds import save

Row = dict[str, Any]

QUICK, DEFAULT, FULL = (1024, 1638), (2560, 4096), (10_240, 16_384)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """ReLU features of 64 directions with noise, in float32: a spectrum that decays."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.arange(1, 65) ** -0.5
    x = (torch.randn(n, 64, generator=generator) * decay) @ torch.randn(64, d, generator=generator)
    return x.add_(torch.randn(n, d, generator=generator), alpha=0.3).relu_()


def seconds(run: Callable[[], Any], times: int = 3) -> float:
    """The shortest of a few."""
    return min(timed(run)[0] for _ in range(times))


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    began, busy = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - busy


class Rates:
    """Multiply-adds a second in products, and bytes a second in copies, of this machine now."""

    def __init__(self) -> None:
        self.double, self.single = (self._products(t) for t in (torch.float64, torch.float32))
        x = torch.empty(2**25)
        y = torch.empty_like(x)
        self.bytes = 2 * 4 * 2**25 / seconds(lambda: y.copy_(x))

    @staticmethod
    def _products(dtype: torch.dtype) -> float:
        a = torch.randn(2048, 2048, dtype=dtype)
        return 2048**3 / seconds(lambda: a @ a)

    def ours(self, n: int, d: int) -> float:
        """Half a product and four thirds of a cube in multiply-adds/2, all in products."""
        m = min(n, d)
        return (0.55 * n * d * m + 0.67 * m**3) / self.double

    def svdvals(self, n: int, d: int) -> float:
        """LQ in products, then two diagonals: half in products, half in passes over memory."""
        m, k = min(n, d), max(n, d)
        products = m * m * (k - m / 3) + 2 / 3 * m**3
        return products / self.single + 4 * 2 * m**3 / 3 / self.bytes


def published(x: Tensor) -> Tensor:
    return torch.linalg.svdvals(x - x.mean(1, keepdim=True))


def pca(x: Tensor) -> Any:
    from sklearn.decomposition import PCA

    return PCA(svd_solver="full").fit(x.numpy())


def has_sklearn() -> bool:
    try:
        import sklearn.decomposition  # noqa: F401
    except ImportError:
        return False
    return True


def against_svd(n: int, d: int, rounds: int) -> list[Row]:
    x, rates = features(n, d), Rates()
    steps: dict[str, Callable[[], Any]] = {
        "ours": lambda: feature_rank(x),
        "svdvals": lambda: published(x),
    }
    note = "" if banded_solver() else "; without SciPy, so the direct solver"
    if has_sklearn():
        steps["PCA"] = lambda: pca(x)
    else:
        note += "; scikit-learn is not installed"
    feature_rank(x[:100]), published(x[:100])  # what a first call loads
    turns = [{name: timed(step) for name, step in steps.items()} for _ in range(rounds)]
    times = {name: min(turn[name][0] for turn in turns) for name in steps}
    busy = {name: min(turn[name][1] for turn in turns) for name in steps}
    memory = {name: peak(name, n, d) for name in steps}
    found = []
    for other in list(steps)[1:]:
        predicted = f"predicted ours {rates.ours(n, d):.2f} s"
        if other == "svdvals":
            predicted += f", svdvals {rates.svdvals(n, d):.2f} s"
        row = _row(f"rank, against {other}", f"{n} x {d}", times["ours"], times[other])
        spent = f"; processor time {busy['ours']:.2f} and {busy[other]:.2f} s, ratio "
        row["note"] = f"{predicted}{spent}{busy[other] / busy['ours']:.2f}{note}"
        row["ours_mib"], row["other_mib"] = memory["ours"], memory[other]
        found.append(row)
    return found


def _row(name: str, size: str, ours: float, other: float, note: str = "") -> Row:
    return {
        "name": name,
        "size": size,
        "ours_s": ours,
        "other_s": other,
        "ratio": other / ours,
        "note": note,
    }


PEAK = """
import sys, torch
import measure_rank as m
name, n, d = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
run = {"ours": m.feature_rank, "svdvals": m.published, "PCA": m.pca}[name]
def resident(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(which))
run(m.features(60, 50)), m.banded_solver()
x = m.features(n, d)
clear = open("/proc/self/clear_refs", "w"); clear.write("5"); clear.close()
before = resident("VmRSS")
run(x)
print(resident("VmHWM") - before)
"""


def peak(name: str, n: int, d: int) -> float | None:
    """MiB of resident memory above the features; None where Linux's /proc is not there."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-c", PEAK, name, str(n), str(d)]
    where = Path(__file__).parent
    run = subprocess.run(command, cwd=where, capture_output=True, text=True, check=True)
    return float(run.stdout)


class PlainViT(nn.Module):
    """ViT-B/16 of torch's own modules: 17.6 G multiply-adds an image of 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        self.position = nn.Parameter(torch.zeros(1, 197, 768))
        self.token = nn.Parameter(torch.zeros(1, 1, 768))
        layer = nn.TransformerEncoderLayer(
            768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(768, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])


def against_forward(quick: bool) -> list[Row]:
    n, d, few = 12_800, 1024, 2 if quick else 8
    model, images = PlainViT().eval(), torch.randn(few, 3, 224, 224)
    x = features(n, d)
    with torch.inference_mode():
        model(images[:1])
        forward = seconds(lambda: model(images), 2) / few * n
    ours = seconds(lambda: feature_rank(x))
    note = f"rank costs {ours / forward:.4%} of the passes, extrapolated from {few} images"
    return [_row("rank, against ViT-B/16 forward", f"{n} x {d}", ours, forward, note)]


def growth(quick: bool) -> list[Row]:
    """Time as a power of n and of d, the other fixed, over a decade."""
    base = 256 if quick else 512
    found = []
    for name, shapes, promised in (
        ("n, d fixed", [(k * 4 * base, base) for k in (1, 10)], "1"),
        ("d, n fixed", [(base, k * 4 * base) for k in (1, 10)], "1"),
        ("n = d", [(k * base // 2,) * 2 for k in (1, 10)], "3"),
    ):
        times = [seconds(lambda shape=shape: feature_rank(features(*shape))) for shape in shapes]
        power = math.log10(times[1] / times[0])
        row = _row(f"growth in {name}", f"{shapes[0]} to {shapes[1]}", times[1], times[0])
        row["note"] = f"power {power:.2f}, promised at most {promised}; includes making features"
        found.append(row)
    return found


def bounds(quick: bool) -> list[Row]:
    n, d = (3000, 1200) if quick else (20_000, 5000)
    generator = torch.Generator().manual_seed(0)
    found = []
    for decay in (1.0, 2.0):
        x = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -decay
        exact, size = feature_rank(x), 256 if quick else 512
        ours = seconds(lambda x=x, size=size: rank_bounds(x, size=size), 1)
        other = seconds(lambda x=x: feature_rank(x), 1)
        record = rank_bounds(x, size=size)
        note = f"energies ∝ i^-{2 * decay:g}: exact {exact.value} in [{record.low}, {record.high}]"
        found.append(_row(f"bounds of {size} rows, against exact", f"{n} x {d}", ours, other, note))
    return found


def weights(quick: bool) -> list[Row]:
    model: nn.Module = PlainViT()
    if quick:
        model = PlainViT().blocks.layers[0]
    matrices = [p.detach() for p in model.parameters() if p.ndim > 1 and min(p.shape[:2]) > 1]

    def decompose() -> None:
        for p in matrices:
            torch.linalg.svdvals(p.flatten(1))

    ours, other = seconds(lambda: weight_ranks(model), 1), seconds(decompose, 1)
    return [_row("weight ranks, against svdvals", f"{len(matrices)} matrices", ours, other)]


def rows(quick: bool, full: bool = False) -> list[Row]:
    """Every measurement as a row; seconds of ours and of the other, and their ratio."""
    shape = QUICK if quick else FULL if full else DEFAULT
    return [
        *against_svd(*shape, rounds=3 if quick else 1),
        *against_forward(quick),
        *growth(quick),
        *bounds(quick),
        *weights(quick),
    ]


def table(found: list[Row]) -> str:
    lines = [f"{'':34s} {'size':26s} {'ours':>9s} {'other':>9s} {'ratio':>8s}  MiB above features"]
    for row in found:
        memory = ""
        if row.get("ours_mib") is not None:
            share = row["ours_mib"] / row["other_mib"]
            memory = f"{row['ours_mib']:.0f} / {row['other_mib']:.0f} = {share:.2f}"
        lines.append(
            f"{row['name']:34s} {row['size']:26s} {row['ours_s']:8.3f}s {row['other_s']:8.3f}s "
            f"{row['ratio']:8.2f}  {memory}"
        )
        if row["note"]:
            lines.append(f"    {row['note']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute")
    parser.add_argument("--full", action="store_true", help="the paper's size: half an hour")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = rows(options.quick, options.full)
    text = f"{torch.get_num_threads()} thread(s)\n{table(found)}"
    print(text)
    save(options.out, text, {"rows": found})


if __name__ == "__main__":
    main()
