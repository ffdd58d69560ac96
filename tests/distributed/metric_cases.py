"""What every process does with metrics in the tests; compared with one process with all data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lowland.integrations.torchmetrics import ActiveUnits, FeatureRank, KNNError

SHARES = (0.5, 0.9, 0.99, 1.0)

METRICS: dict[str, Callable[[], Any]] = {
    "rank": lambda: FeatureRank(SHARES),
    "rank of examples": lambda: FeatureRank(SHARES, "example"),
    "rank, not centred": lambda: FeatureRank(SHARES, "none"),
    "rank of wide features": lambda: FeatureRank(SHARES, widest=3),
    "active": ActiveUnits,
    "active on a share": lambda: ActiveUnits("positive", examples=0.45),
    "active channels": lambda: ActiveUnits("absolute", share=0.1, channels=2),
    "neighbours": lambda: KNNError(k=3),
}

SPLITS = {
    "even": (0.5, torch.float32),
    "ragged": (0.3, torch.float64),
    "all on the second": (0.0, torch.bfloat16),
}
"""Share of the examples on the first process, and their type."""


def examples(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(41, 8, generator=generator) * 0.6 ** torch.arange(8) + 3
    return x.to(dtype), torch.randint(0, 3, (41,), generator=generator)


def feed(metric: nn.Module, name: str, x: Tensor, y: Tensor, size: int) -> None:
    """Batches of `size`; none at all where there are no examples."""
    for part, of in zip(x.split(size), y.split(size), strict=True):
        if len(part) == 0:
            continue
        if name == "neighbours":
            metric.update(part, of, reference=True)
            metric.update(part.flip(1), of)
        else:
            metric.update(part)


def metrics(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Every metric on this rank's part of every split, computed twice."""
    out: dict[str, Any] = {}
    for split, (share, dtype) in SPLITS.items():
        x, y = examples(dtype)
        cut = round(share * len(x))
        mine = slice(0, cut) if rank == 0 else slice(cut, None)
        for name, make in METRICS.items():
            metric = make()
            if cut == 0 and rank == 0:
                metric._update_count = 1  # else torchmetrics warns, as it should
            feed(metric, name, x[mine], y[mine], size=4 + rank)
            first = metric.compute()
            held = sum(len(t) for t in getattr(metric, "features", []))
            metric._computed = None
            again = metric.compute()
            out[f"{name} {split}"] = (first, torch.equal(first, again), held)
    dist.barrier()
    return out
