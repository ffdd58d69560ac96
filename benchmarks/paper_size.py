"""Where the time of a paper-size run goes: 200 epochs of CIFAR-size images with SAM, and its ranks.

PreAct ResNet-18 of width 64 in batches of 256: 39,000 updates of two passes, 40 evaluations with
the ranks of three blocks on 10,240 images. Timed on the present device, on made images:

    counted      operations, bytes and calls of a pass and of a step (`counted_work`), and what they
                 would take at the rates of products and copies, measured first
    updates      plain and SAM, through `lowland.train` itself, by precision, memory format, fused
                 and compiled kernels, in turn; ratios to float32 as torch has it
    evaluation   all of it, and each rank
    run          the sum over a run, the state that is kept included, and the share of the ranks
    profile      what the device did in an update, by kind, and how much of it it stood idle

Prediction for an H100 (989 TFLOP/s in bfloat16 and half of that in TF32, 67 in float64, 3.35 TB/s):
a pass has 3.33 GFLOP an image, 0.86 ms a batch at peak and 1.7 at half of it; its other calls move
3.7 GB in bfloat16, 1.1 ms if none are fused, and 7.4 GB in float32; a step of SAM moves 0.85 GB,
0.25 ms. So an update is 6 ms by channels in bfloat16 (4 minutes a run), bounded by convolutions,
and some 450 launches of 5 µs, 2.3 ms, are hidden behind it, unless Python takes longer than 6 ms
for them: then the device stands idle, and compiled passes gain more than the 0.8 ms a pass that
fusing can save. In float32 by images it is 16 ms (10 minutes): convolutions wait for their layout.
A rank of 10,240 x 16,384 takes 0.05 s for its product, and at least 0.9 s for its eigenvalues,
which read 2.9 TB; with that of `final` 1.4 s, 56 s a run: more than 5% of any run of 15 minutes.

    python benchmarks/paper_size.py [--quick] [--width W] [--batch B] [--rounds N] [--updates K]
        [--variants GLOB] [--methods none,sam] [--out FILE.json]

Without a GPU the defaults take hours: `--batch 64 --rounds 2 --variants "*by channels"` say less.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from counted_work import Work, of_passes, of_rank, of_step
from device_times import by_kind, copy_rate, finished, product_rate
from lowland.data.images import ImageData, Split, assemble
from lowland.measure import capture, feature_rank
from lowland.train import Recipe
from lowland.train.classification import start
from lowland.train.evaluate import Inputs, first
from lowland.train.plan import Plan, device_of
from lowland.train.state import State, save_state
from rounds import interleaved, ratios, save

EPOCHS, IMAGES, EVALUATIONS = 200, 49_950, 40
CHECKPOINT_SECONDS = 30.0
BASE = "float32"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "float32, by channels": {"memory_format": "channels_last"},
    "bfloat16": {"precision": "bf16-mixed"},
    "bfloat16, by channels": {"precision": "bf16-mixed", "memory_format": "channels_last"},
    "bfloat16, by channels, fused": {
        "precision": "bf16-mixed",
        "memory_format": "channels_last",
        "fused": True,
    },
    "bfloat16, by channels, fused, compiled": {
        "precision": "bf16-mixed",
        "memory_format": "channels_last",
        "fused": True,
        "compile": True,
    },
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What is timed.

    Attributes:
        width: of the network.
        batch: images per update.
        examples: images that features are ranked on.
        rounds: readings of each variant.
        updates: in one reading.
    """

    width: int = 64
    batch: int = 256
    examples: int = 10_240
    rounds: int = 7
    updates: int = 20

    @property
    def steps(self) -> int:
        """Updates of a whole run."""
        return IMAGES // self.batch * EPOCHS


QUICK = Size(width=2, batch=16, examples=48, rounds=2, updates=1)


def images(size: Size) -> ImageData:
    """Made ones, of the size of CIFAR: their values make no difference to the time."""
    draws = torch.Generator().manual_seed(0)
    splits, begin = {}, 0
    for name, n in {"train": size.examples, "validation": 50, "test": size.examples}.items():
        n = max(n, 4 * size.batch) if name == "train" else n
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=draws)
        splits[name] = Split(pixels, torch.arange(n) % 10, torch.arange(begin, begin + n))
        begin += n
    return assemble("made", **splits, augmentation="shift-flip", source={})


def recipe_of(method: str, size: Size, device: str, **changes: Any) -> Recipe:
    """The minimal setting of the low-rank study."""
    return Recipe(
        model="preact-resnet18",
        width=size.width,
        method=method,
        rho=0.1 if method == "sam" else 0.0,
        lr=0.05,
        epochs=EPOCHS,
        batch_size=size.batch,
        rank_block="block3,final,pool",
        rank_blocks="block3,final,pool",
        rank_examples=size.examples,
        device=device,
        **changes,
    )


class Running:
    """A recipe in training on made images."""

    def __init__(self, recipe: Recipe, data: ImageData) -> None:
        self.plan = Plan(recipe=recipe, data=data, transfer=None, device=recipe.device, run="made")
        self.work = start(self.plan)
        self._epoch, self._step = 0, 0
        self._batches = self.work.batches(0, 0)

    def updates(self, count: int) -> None:
        """So many of them, finished."""
        for _ in range(count):
            batch = next(self._batches, None)
            if batch is None:
                self._epoch += 1
                self._batches = self.work.batches(self._epoch, 0)
                batch = next(self._batches)
            self.work.trainer.update(self._step, *batch)
            self._step += 1
        finished(self.plan.device)


def seconds(run: Callable[[], Any], device: str) -> float:
    """Of one call, everything on the device included."""
    finished(device)
    began = time.perf_counter()
    run()
    finished(device)
    return time.perf_counter() - began


def update_rows(
    size: Size, data: ImageData, device: str, methods: list[str], variants: list[str]
) -> tuple[dict[str, Row], dict[str, Running]]:
    """Milliseconds of an update by method and variant, and what has been trained."""
    running, rows = {}, {}
    for method in methods:
        for variant in variants:
            recipe = recipe_of(method, size, device, **VARIANTS[variant])
            own = running[f"{method}: {variant}"] = Running(recipe, data)
            rows[f"{method}: {variant}"] = {"first": seconds(lambda r=own: r.updates(1), device)}
            own.updates(min(3, size.updates))  # buffers, choices of kernels
    steps = {name: lambda r=own: r.updates(size.updates) for name, own in running.items()}
    times = interleaved(steps, size.rounds, seed=0)
    for method in methods:
        mine = {n: t for n, t in times.items() if n.startswith(f"{method}: ")}
        for name, row in ratios(mine, next(iter(mine))).items():
            rows[name] |= {**row, "ms": row["ms"] / size.updates}
    return rows, running


def evaluation_rows(running: Running, size: Size, device: str) -> dict[str, Row]:
    """Seconds of an evaluation between the first and the last, and of the ranks in it."""
    work, plan = running.work, running.plan.on_device()
    work.evaluator()
    rows: dict[str, Row] = {"whole": {"s": seconds(work.evaluator, device)}}
    module: Any = work.trainer.module
    inputs = Inputs(plan.data, first(plan.data.train, size.examples), torch.float32)
    found: dict[str, Any] = {}

    def catch() -> None:
        found.update(capture(module, inputs, plan.recipe.rank_block, device=device))

    rows["passes for the ranks"] = {"s": seconds(catch, device)}
    for block, features in found.items():
        shape = tuple(features.shape)
        made: list[Any] = []
        spent = seconds(lambda f=features, m=made: m.append(feature_rank(f)), device)
        rows[f"rank of {block}"] = {"s": spent, "shape": shape, "solver": made[0].solver}
    return rows


def state_seconds(running: Running, device: str) -> float:
    """Of keeping the state once."""
    trainer = running.work.trainer
    with tempfile.TemporaryDirectory() as folder:

        def keep() -> None:
            state = State(
                step=1, model=trainer.module.state_dict(), optimizer=trainer.optimizer.state_dict()
            )
            save_state(Path(folder), "made", state)

        return seconds(keep, device)


def run_rows(updates: dict[str, Row], parts: dict[str, Row], state: float, size: Size) -> list[Row]:
    """A whole run of each variant, in seconds, and the share of its ranks."""
    ranks = sum(row["s"] for name, row in parts.items() if name.startswith("rank of"))
    rows = []
    for name, row in updates.items():
        training = row["ms"] / 1e3 * size.steps
        evaluating = EVALUATIONS * parts["whole"]["s"]
        writes = max(EVALUATIONS, (training + evaluating) / CHECKPOINT_SECONDS)
        whole = training + evaluating + writes * state
        rows.append(
            {
                "variant": name,
                "train": training,
                "evaluate": evaluating,
                "of that ranks": EVALUATIONS * ranks,
                "keep": writes * state,
                "whole": whole,
                "share of ranks": EVALUATIONS * ranks / whole,
            }
        )
    return rows


def counted(running: Running, size: Size, rates: dict[str, float]) -> dict[str, Row]:
    """What has to be done, and how long it would take at this device's rates."""
    module: Any = running.work.trainer.module
    shape = (size.batch, 3, 32, 32)
    parameters = sum(p.numel() for p in module.parameters())
    works = {
        "pass in float32": of_passes(module, shape, torch.float32),
        "pass in bfloat16": of_passes(module, shape, torch.bfloat16),
        "evaluated batch": of_passes(module, shape, torch.float32, backward=False),
        "step of SGD": of_step(parameters, sam=False, momentum=False),
        "step of SAM": of_step(parameters, sam=True, momentum=False),
    }
    return {name: _floors(work, rates, "bfloat16" in name) for name, work in works.items()}


def _floors(work: Work, rates: dict[str, float], half: bool) -> Row:
    products = rates["bfloat16 products" if half else "float32 products"]
    return {
        "gflop": work.flops / 1e9,
        "gb": work.bytes / 1e9,
        "gb of other calls": work.other_bytes / 1e9,
        "calls": work.calls,
        "ms of products": 1e3 * work.flops / products,
        "ms of other calls": 1e3 * work.other_bytes / rates["bytes"],
    }


def measure(size: Size, methods: list[str], variants: list[str]) -> dict[str, Any]:
    """All of it."""
    device = device_of("auto")
    data = images(size)
    rates = {
        "bfloat16 products": product_rate(torch.bfloat16, device),
        "float32 products": product_rate(torch.float32, device),
        "float64 products": product_rate(torch.float64, device),
        "bytes": copy_rate(device),
    }
    updates, running = update_rows(size, data, device, methods, variants)
    one = next(iter(running.values()))
    parts = evaluation_rows(one, size, device)
    for row in parts.values():
        if "shape" in row:
            product, _, read = of_rank(*row["shape"])
            row["predicted"] = product / rates["float64 products"] + read / rates["bytes"]
    state = state_seconds(one, device)
    profiles = {}
    for name in dict.fromkeys([next(iter(running)), list(running)[-1]]):
        own = running[name]
        profiles[name] = by_kind(lambda r=own: r.updates(size.updates), device, size.updates)
        busy = sum(profiles[name].values())
        profiles[name] = {**profiles[name], "idle": max(0.0, updates[name]["ms"] - busy)}
    return {
        "device": device,
        "size": vars(size),
        "rates": rates,
        "counted": counted(one, size, rates),
        "updates": updates,
        "evaluation": parts,
        "state_seconds": state,
        "runs": run_rows(updates, parts, state, size),
        "profiles": profiles,
    }


def table(found: dict[str, Any]) -> str:
    """The same to be read."""
    size = found["size"]
    lines = [f"width {size['width']}, batch {size['batch']}, {size['examples']:,} images for ranks"]
    lines += [f"{name:<20} {rate / 1e12:9.3f} T/s" for name, rate in found["rates"].items()]
    lines.append(f"\n{'counted':<20}{'GFLOP':>10}{'GB':>8}{'calls':>7}{'ms':>9}{'ms other':>10}")
    lines += [
        f"{name:<20}{r['gflop']:>10.1f}{r['gb']:>8.2f}{r['calls']:>7}{r['ms of products']:>9.2f}"
        f"{r['ms of other calls']:>10.2f}"
        for name, r in found["counted"].items()
    ]
    lines.append(f"\n{'an update':<46}{'ms':>9}{'ratio':>8}  quartiles      first")
    lines += [
        f"{name:<46}{r['ms']:>9.2f}{r['ratio']:>8.3f}  {r['low']:.3f} {r['high']:.3f} "
        f"{r['first']:>8.1f}s"
        for name, r in found["updates"].items()
    ]
    lines.append("\nan evaluation")
    lines += [
        f"{name:<28}{r['s']:>9.3f}s"
        + (
            f"  {r['shape']}, {r['solver']}, predicted {r['predicted']:.3f}s"
            if "shape" in r
            else ""
        )
        for name, r in found["evaluation"].items()
    ]
    lines.append(f"state kept once: {found['state_seconds']:.3f}s")
    heads = ("train", "evaluate", "of that ranks", "keep", "whole")
    titles = "".join(f"{h:>14}" for h in heads)
    lines.append(f"\n{'a run, minutes':<46}{titles}  ranks")
    lines += [
        f"{r['variant']:<46}"
        + "".join(f"{r[h] / 60:>14.2f}" for h in heads)
        + f"{100 * r['share of ranks']:>6.1f}%"
        for r in found["runs"]
    ]
    for name, kinds in found["profiles"].items():
        lines.append(f"\nms in an update of {name}")
        order = sorted(kinds.items(), key=lambda item: -item[1])
        lines += [f"    {kind[:60]:<60}{ms:>9.3f}" for kind, ms in order if ms > 0]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny network, seconds in all")
    parser.add_argument("--variants", default="*", help="glob over the names of variants")
    parser.add_argument("--methods", default="none,sam", help="none, sam, or both")
    parser.add_argument("--out", type=Path, help="JSON file for the rows; a .txt goes beside it")
    for name in ("width", "batch", "examples", "rounds", "updates"):
        parser.add_argument(f"--{name}", type=int, help=f"{getattr(Size(), name)} by default")
    options = parser.parse_args()
    given = {n: getattr(options, n) for n in vars(Size()) if getattr(options, n) is not None}
    size = replace(QUICK if options.quick else Size(), **given)
    variants = [name for name in VARIANTS if fnmatch.fnmatchcase(name, options.variants)]
    if options.quick and options.variants == "*":
        variants = [name for name in variants if "compile" not in VARIANTS[name]]
    if BASE not in variants:
        variants = [BASE, *variants]
    torch.set_num_threads(1)
    found = measure(size, options.methods.split(","), variants)
    print(table(found))
    save(options.out, table(found), found)


if __name__ == "__main__":
    main()
