"""Running a function in several processes that talk by gloo, and what each of them returns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from problems import equal

HERE = Path(__file__).parent
PATHS = [HERE, HERE.parent / "optim", HERE.parents[1] / "src"]
START = """
import importlib, os, sys, datetime
import torch, torch.distributed as dist
torch.set_num_threads(1)
module, function, rank, world, folder = sys.argv[1:6]
rank, world = int(rank), int(world)
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world,
    timeout=datetime.timedelta(seconds=90),
)
result = getattr(importlib.import_module(module), function)(rank, world, folder)
torch.save(result, f"{folder}/result-{rank}.pt")
sys.stdout.flush()
os._exit(0)  # gloo's threads may abort an ordinary exit on a busy machine
"""


def start(module: str, function: str, world: int, folder: Path) -> list[subprocess.Popen[str]]:
    """Start ``module.function(rank, world, folder)`` on every rank."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [*map(str, PATHS), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", START, module, function, str(rank), str(world), str(folder)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[str]], seconds: float = 150) -> list[str]:
    """What each has printed; all are gone afterwards."""
    until = time.monotonic() + seconds
    try:
        return [p.communicate(timeout=max(1.0, until - time.monotonic()))[0] for p in processes]
    finally:
        for p in processes:
            p.kill()


def run(module: str, function: str, world: int, folder: Path, seconds: float = 150) -> list[Any]:
    """The results of all ranks."""
    processes = start(module, function, world, folder)
    printed = finish(processes, seconds)
    failed = [text for p, text in zip(processes, printed, strict=True) if p.returncode]
    assert not failed, "\n".join(text[-3000:] for text in failed)
    return [result(folder, rank) for rank in range(world)]


def result(folder: Path, rank: int) -> Any:
    return torch.load(folder / f"result-{rank}.pt", weights_only=False)


def all_skipped_the_second(results: list[dict[str, Any]]) -> None:
    """Every rank skipped the second of three steps, and its scaler has backed off once.

    Args:
        results: of each rank: name → (weights after each step, scale, skipped steps); a name with
            "True" in it has a scaler, which began at 1024.
    """
    for key, (trail, scale, skipped) in results[0].items():
        for other in results:
            assert all(equal(a, b) for a, b in zip(trail, other[key][0], strict=True)), key
            assert other[key][1:] == (scale, skipped), key
        assert skipped == 1, key
        assert equal(trail[0], trail[1]), key
        assert not equal(trail[1], trail[2]), key
        assert scale == (512.0 if "True" in key else 1.0), key
