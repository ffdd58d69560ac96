"""The same second derivatives by other libraries, where they are installed."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from curvature_networks import Data
from rounds import Step

PEERS = [name for name in ("curvlinops", "pyhessian") if importlib.util.find_spec(name)]
Setting = tuple[str, Callable[[], list[float]]]
Estimate = Callable[[int, int], float]


def peer_products(model: nn.Module, data: Data, loss_fn: Any) -> dict[str, Step]:
    """matrix -> one product by curvlinops, whose losses are modules of outputs (b, classes)."""
    if "curvlinops" not in PEERS or not isinstance(loss_fn, nn.Module):
        return {}
    import curvlinops

    found: dict[str, Step] = {}
    kinds = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
    for matrix, kind in kinds.items():
        operator = kind(model, loss_fn, list(model.parameters()), data, check_deterministic=False)
        vector = torch.randn(operator.shape[1])
        operator @ vector
        found[matrix] = lambda o=operator, v=vector: o @ v
    return found


def eigenvalue_peers(model: nn.Module, data: Data) -> dict[str, list[Setting]]:
    """library -> settings from cheap to dear, each giving five eigenvalues by magnitude."""
    loss_fn, found = nn.CrossEntropyLoss(), {}
    if "pyhessian" in PEERS:
        from pyhessian import hessian

        def power(steps: int, tolerance: float) -> list[float]:
            torch.manual_seed(0)
            peer = hessian(model, loss_fn, dataloader=data, cuda=False)
            values = peer.eigenvalues(maxIter=steps, tol=tolerance, top_n=5)[0]
            return sorted(values, key=abs, reverse=True)

        found["PyHessian"] = [
            (f"maxIter={m}, tol={t:g}", lambda m=m, t=t: power(m, t))
            for m, t in ((100, 1e-3), (300, 1e-4), (1000, 1e-5), (3000, 1e-6))
        ]
    if "curvlinops" in PEERS:
        import curvlinops
        import numpy as np
        from scipy.sparse.linalg import eigsh

        def arnoldi(tolerance: float) -> list[float]:
            peer = curvlinops.HessianLinearOperator(
                model, loss_fn, list(model.parameters()), data
            ).to_scipy()
            start = np.random.default_rng(0).standard_normal(peer.shape[0]).astype(np.float32)
            values = eigsh(peer, k=5, which="LM", tol=tolerance, v0=start)[0]
            return sorted(values.tolist(), key=abs, reverse=True)

        found["curvlinops and eigsh"] = [
            (f"tol={t:g}", lambda t=t: arnoldi(t)) for t in (1e-1, 1e-2, 1e-3, 1e-4)
        ]
    return found


def trace_peers(model: nn.Module, data: Data) -> dict[str, tuple[Estimate, int]]:
    """library -> (vectors, seed) -> its estimate, and how many of them make an interval."""
    loss_fn, found = nn.CrossEntropyLoss(), {}
    if "pyhessian" in PEERS:
        from pyhessian import hessian

        def mean_of_probes(vectors: int, seed: int) -> float:
            torch.manual_seed(seed)
            peer = hessian(model, loss_fn, dataloader=data, cuda=False)
            return statistics.fmean(peer.trace(maxIter=vectors, tol=0.0))

        found["PyHessian"] = mean_of_probes, 1
    if "curvlinops" in PEERS:
        import curvlinops

        def sketched(vectors: int, seed: int) -> float:
            torch.manual_seed(seed)
            peer = curvlinops.HessianLinearOperator(model, loss_fn, list(model.parameters()), data)
            return float(curvlinops.hutchpp_trace(peer, vectors))

        found["curvlinops, Hutch++"] = sketched, 5
    return found
