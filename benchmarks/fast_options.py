"""Whether fast settings change what comes out: accuracy and rank of paired runs, over seeds.

Every seed is trained as torch has it (float32, images by channel, eager) and with each of the fast
settings of `paper_size`, from the same initial weights on the same batches, plainly and with SAM.
The two differ by rounding alone, which training amplifies. For each quantity the table has

    difference   fast - plain, mean over seeds with its 95% t interval
    noise        the standard deviation over seeds of the plain runs
    within       whether the whole interval lies within ± that: the claim that a setting changes
                 nothing beyond seed noise. An interval that is wider shows nothing either way.

    python benchmarks/fast_options.py [--data NAME] [--seeds 10] [--rhos 0,0.2] [--variants GLOB]
        [--set KEY=VALUE ...] [--runs FOLDER] [--out FILE.json]

By default on digits, in some minutes on a CPU. On one GPU, CIFAR-10 at the published width:

    python benchmarks/fast_options.py --data cifar:FOLDER --seeds 5 --rhos 0,0.2 \\
        --set model=preact-resnet18 width=64 epochs=30 batch_size=256 rank_block=block3 \\
        --runs runs/fast --out benchmarks/results/fast_options.json

Runs are kept in the folder: a call that ends early goes on where it was.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowland.report.intervals import t_interval
from lowland.train import Recipe, read_history, run
from lowland.train.directory import HISTORY
from paper_size import BASE, VARIANTS
from rounds import save

DEFAULT = {
    "model": "preact-resnet-small",
    "width": 8,
    "lr": 0.2,
    "epochs": 15,
    "evaluations": 1,
    "rank_blocks": "block2",
    "centers": ("unit",),
    "variances": (0.95, 0.99),
}
"""The default size of the low-rank study at half its width, three quarters as long."""

Row = dict[str, Any]


def recipe_of(data: str, rho: float, seed: int, settings: Sequence[str], **changes: Any) -> Recipe:
    """A run at ρ with one seed; ρ = 0 is plain SGD."""
    method = "sam" if rho else "none"
    values = {"data": data, "method": method, "rho": rho, "seed": seed, **DEFAULT}
    return Recipe.from_mapping(values).with_settings(settings).changed(**changes)


def outcome(recipe: Recipe, folder: Path) -> dict[str, float]:
    """What the last evaluation found."""
    last = read_history(run(recipe, folder) / HISTORY)[-1]
    wanted = ("train/loss", "test/loss", "test/error", "weight-norm", "seconds/train")
    names = [name for name in last if name in wanted or name.startswith("rank/train/")]
    return {name: float(value) for name in names if (value := last[name]) is not None}


def compared(plain: Sequence[float], fast: Sequence[float]) -> Row:
    """One quantity over seeds."""
    differences = [f - p for p, f in zip(plain, fast, strict=True)]
    found = t_interval(differences)
    noise = statistics.stdev(plain)
    if found is None:
        return {"plain": statistics.fmean(plain), "noise": noise, "within": False}
    most = max(abs(found.low), abs(found.high))
    return {
        "plain": statistics.fmean(plain),
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "noise": noise,
        "within": bool(math.isfinite(most) and most <= noise),
    }


def compare(
    data: str,
    seeds: int,
    rhos: Sequence[float],
    variants: Sequence[str],
    settings: Sequence[str],
    folder: Path,
) -> list[Row]:
    """All pairs; prints every run as it ends."""
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in range(seeds):
        for rho in rhos:
            for variant in (BASE, *variants):
                recipe = recipe_of(data, rho, seed, settings, **VARIANTS[variant])
                found.setdefault((variant, rho), []).append(outcome(recipe, folder))
                last = found[variant, rho][-1]
                print(
                    f"seed {seed} ρ {rho:g} {variant}: error {last['test/error']:.4f}", flush=True
                )
    rows = []
    for rho in rhos:
        plain = found[BASE, rho]
        for variant in variants:
            fast = found[variant, rho]
            for name in plain[0]:
                if name != "seconds/train":
                    of = compared([row[name] for row in plain], [row[name] for row in fast])
                    rows.append({"rho": rho, "variant": variant, "quantity": name, **of})
    return rows


def table(rows: Sequence[Row], title: str) -> str:
    """The rows to be read."""
    lines = [title]
    seen = None
    for row in rows:
        if (row["rho"], row["variant"]) != seen:
            seen = row["rho"], row["variant"]
            lines.append(f"\n{row['variant']}, ρ = {row['rho']:g}")
            lines.append(
                f"    {'':<30}{'plain':>11}{'difference':>12}{'95% interval':>26}{'noise':>11}"
            )
        if "difference" not in row:
            lines.append(f"    {row['quantity']:<30}{row['plain']:>11.4f}  not finite")
            continue
        interval = f"[{row['low']:.4f}, {row['high']:.4f}]"
        lines.append(
            f"    {row['quantity']:<30}{row['plain']:>11.4f}{row['difference']:>12.4f}"
            f"{interval:>26}{row['noise']:>11.4f}  {'within' if row['within'] else 'not shown'}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rhos", default="0,0.2")
    parser.add_argument("--variants", help="glob; by default all but the compiled ones")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default none is kept")
    parser.add_argument("--out", type=Path, help="JSON file for the rows; a .txt goes beside it")
    options = parser.parse_args()
    usual = [name for name in VARIANTS if "compile" not in VARIANTS[name]]
    wanted = usual if options.variants is None else fnmatch.filter(VARIANTS, options.variants)
    variants = [name for name in wanted if name != BASE]
    rhos = [float(rho) for rho in options.rhos.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        rows = compare(options.data, options.seeds, rhos, variants, options.set, folder)
    title = f"{options.data}, {options.seeds} seeds, {' '.join(options.set) or 'default settings'}"
    print(table(rows, title))
    save(options.out, table(rows, title), {"title": title, "rows": rows})


if __name__ == "__main__":
    main()
