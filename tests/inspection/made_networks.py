"""Small networks, files and data to inspect."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from lowland.inspection import How, Request, inspect_checkpoints, make_request

MEAN_STD: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


class Block(nn.Module):
    """x + b(relu(a(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(torch.relu(self.a(x)))
        return out


class Foreign(nn.Module):
    """A network whose blocks have names that nobody foresaw, behind a forward of its own."""

    def __init__(self, width: int = 4, classes: int = 3, depth: int = 3) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.stages = nn.ModuleList([Block(width) for _ in range(depth)])
        self.drop = nn.Dropout(0.5)
        self.readout = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.entry(x))
        for stage in self.stages:
            x = stage(x)
        out: Tensor = self.readout(self.drop(x.mean((2, 3))))
        return out


def foreign(seed: int = 0, **options: Any) -> Foreign:
    """A `Foreign` with weights of its own, in eval mode."""
    torch.manual_seed(seed)
    model = Foreign(**options)
    with torch.no_grad():
        model.norm.running_mean.uniform_(-0.5, 0.5)
        model.norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


def narrow() -> nn.Sequential:
    """A network of vectors, not of images."""
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))


def pixels(n: int, size: int = 8, seed: int = 0) -> np.ndarray:
    """Images (n, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def labels(n: int, classes: int = 3) -> np.ndarray:
    return np.arange(n) % classes


def array_data(folder: Path, n: int = 21, size: int = 8, **changes: Any) -> str:
    """``npz:FILE`` with images and labels."""
    arrays = {"x": pixels(n, size), "y": labels(n), **changes}
    np.savez(folder / "data.npz", **{k: v for k, v in arrays.items() if v is not None})
    return f"npz:{folder / 'data.npz'}"


def text_data(folder: Path, texts: list[str], marks: list[int] | None = None) -> str:
    """``parquet:FILE`` with texts."""
    columns: dict[str, Any] = {"text": texts}
    if marks is not None:
        columns["label"] = marks
    pq.write_table(pa.table(columns), folder / "texts.parquet")
    return f"parquet:{folder / 'texts.parquet'}"


def inputs(n: int = 21, size: int = 8) -> Tensor:
    """What `array_data` becomes under `MEAN_STD`, as float64."""
    stored = torch.from_numpy(pixels(n, size)).permute(0, 3, 1, 2).double()
    return (stored / 255 - 0.5) / 0.25


def asked(**options: Any) -> Request:
    """A request of small batches on the CPU."""
    return make_request(**{"device": "cpu", "batch_size": 8, **options})


def inspected(
    *names: object, data: str | None = None, how: How | None = None, **options: Any
) -> dict[str, Any]:
    """The record of an inspection."""
    return inspect_checkpoints([str(n) for n in names], asked(**options), data=data, how=how)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
