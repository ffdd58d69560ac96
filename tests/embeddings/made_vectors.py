"""Vectors whose neighbours and components are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def low_rank(n: int, d: int, rank: int, *, seed: int = 0, noise: float = 0.0) -> Floats:
    """Gaussian vectors in a space of `rank` dimensions, with a mean and noise in all of them."""
    draws = np.random.default_rng(seed)
    basis = np.linalg.qr(draws.standard_normal((d, rank)))[0].T
    scales = np.linspace(2.0, 1.0, rank)
    x = draws.standard_normal((n, rank)) * scales @ basis + 0.1 * basis.sum(0)
    return (x + noise * draws.standard_normal((n, d))).astype(np.float32)


def brute_force(x: Any, queries: Any, k: int, metric: str, own: Any = None) -> npt.NDArray[Any]:
    """Places (q, k) of the true nearest, by comparing all pairs in float64."""
    x, queries = np.asarray(x, dtype=np.float64), np.asarray(queries, dtype=np.float64)
    if metric == "l2":
        far = ((queries[:, None] - x[None]) ** 2).sum(2)
    else:
        if metric == "cosine":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        far = -queries @ x.T
    if own is not None:
        far[np.arange(len(queries)), own] = np.inf
    return np.argsort(far, axis=1, kind="stable")[:, :k]


def recall(found: Any, true: Any) -> float:
    """Mean share of the true places among those found."""
    pairs = zip(np.asarray(found).tolist(), np.asarray(true).tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def save_all(folder: Path, x: Floats) -> dict[str, Path]:
    """The same vectors in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    paths = {name: folder / f"v.{name}" for name in ("npy", "safetensors", "parquet")}
    np.save(paths["npy"], x)
    save_file({"v": x}, paths["safetensors"])
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"id": np.arange(len(x)), "v": lists})
    pq.write_table(table, paths["parquet"], row_group_size=max(1, len(x) // 3))
    return paths
