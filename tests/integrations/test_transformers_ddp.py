"""`Trainer` on two processes equals one process with the whole batch."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_cases import RHO, base_over, counted, weighted
from tiny_trainers import (
    farthest,
    language_model,
    sam_by_hand,
    same,
    sentences,
    weights,
    windows,
)
from torch import Tensor

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def run_ranks(script: Path, out: Path) -> None:
    paths = [str(HERE), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    shared = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(out)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), outputs


def reference(across: str, perturb: str, folder: Path) -> list[list[Tensor]]:
    """What one process makes of it, written out by hand.

    A window has two micro-batches on each of two ranks, dealt out in turn: 0 2 and 1 3; the last
    one of an epoch is ragged, with one on each. Tokens are counted over the whole window.
    """
    model = language_model()
    steps = windows(sentences(20), 2, 4) * 2
    base, scheduler = base_over(model, folder, len(steps))
    trail = []
    for window in steps:
        ranks = [window[0::2], window[1::2]]
        shared: dict[str, list[list[Any]]] = {
            "global-window": [window],
            "global-micro-batch": [list(pair) for pair in zip(*ranks, strict=True)],
            "local-window": ranks,
            "local-micro-batch": [[micro] for micro in window],
        }
        everything = [example for micro in window for example in micro]
        parts = []
        for share in shared[f"{across}-{perturb}"]:
            examples = [example for micro in share for example in micro]
            weight = counted(examples) / counted(everything)
            parts.append(functools.partial(weighted, model, examples, weight))
        sam_by_hand(model, base, parts, RHO, 0.5)
        scheduler.step()
        trail.append(weights(model))
    return trail


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """An ε from the window or the micro-batch, over both processes ("global") or each process's
    own ("local")."""
    run_ranks(HERE / "ddp_trainer.py", tmp_path)
    finals = []
    for across in ("global", "local"):
        for perturb in ("window", "micro-batch"):
            ranks = [torch.load(tmp_path / f"{across}-{perturb}-{r}.pt") for r in (0, 1)]
            by_hand = reference(across, perturb, tmp_path)
            assert len(ranks[0]) == len(by_hand) == 6
            for left, right, theirs in zip(*ranks, by_hand, strict=True):
                assert same(left, right), "replicas stay the same bit for bit"
                assert farthest(left, theirs) < 2e-6, (across, perturb)
            finals.append(by_hand[-1])
    assert min(farthest(finals[0], other) for other in finals[1:]) > 1e-4, "four different runs"
