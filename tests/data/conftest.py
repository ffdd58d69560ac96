"""Small sources of images, written in the real formats."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_images import idx_bytes, png


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A folder in the layout of Fashion-MNIST: 60 + 15 images of 3 classes, labels gzipped."""
    draws = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 15)):
        images = draws.integers(0, 256, (n, 6, 5))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = gzip.compress(idx_bytes(np.arange(n) % 3))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., str]:
    """Write columns to a Parquet file; returns the data set's name."""

    def write(columns: dict[str, Any]) -> str:
        path = tmp_path / "made.parquet"
        pq.write_table(pa.table(columns), path)
        return f"parquet:{path}"

    return write


@pytest.fixture
def columns() -> dict[str, Any]:
    """40 RGB images, 8 x 6, of two classes, without a split column."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)
    return {"image": [png(p) for p in pixels], "label": [row % 2 for row in range(40)]}
