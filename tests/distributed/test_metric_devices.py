"""Metrics over two processes (gloo) against one process that has all the examples."""

from __future__ import annotations

from pathlib import Path

import torch
from metric_cases import METRICS, SPLITS, examples, feed
from ranks import run


def test_two_processes_give_exactly_what_one_gives(tmp_path: Path) -> None:
    """Also where one has seen nothing and does not know the shape; states are local again after."""
    results = run("metric_cases", "metrics", 2, tmp_path)
    for split, (share, dtype) in SPLITS.items():
        x, y = examples(dtype)
        for name, make in METRICS.items():
            alone = make()
            feed(alone, name, x, y, size=7)
            expected = alone.compute()
            for rank, result in enumerate(results):
                value, again, held = result[f"{name} {split}"]
                assert torch.equal(value, expected), (name, split, rank)
                assert again, (name, split)
                own = round(share * 41) if rank == 0 else 41 - round(share * 41)
                assert held in (0, own), "what was gathered must be dropped"
