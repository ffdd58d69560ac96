"""Gathered copies, wrappers made anew, and stages that differ: against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_cases import DOUBLE, SGD
from problems import data, equal, losses, network, weights
from ranks import run

from lowland.core.errors import InputError
from lowland.optim import MSAM, SAM


def alone(n: int, steps: int = 3) -> list[torch.Tensor]:
    model = network(3, DOUBLE, norm=False)
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)
    for i in range(steps):
        opt.step(loss_fn=losses(model), batch=data(i, n, DOUBLE))
    return weights(model)


def close(left: Any, right: Any) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in pairs)


def test_gathered_parameters_do_not_hide_the_perturbation(tmp_path: Path) -> None:
    results = run("wrapper_cases", "gathered", 2, tmp_path)
    for found in results:
        for given in (True, False):
            sharpness, after, expected = found[f"plain {given}"]
            assert abs(sharpness) > 1e-3
            for kind in ("metrics", "prefetched", "looked at"):
                assert found[f"{kind} {given}"][:2] == (sharpness, after), (kind, given)
                assert equal(found[f"{kind} {given}"][2], expected), (kind, given)
        assert equal(found["micro-batches False"], found["micro-batches True"])
        assert found["swap"] == ""
        assert close(found["ragged"], alone(13))
        assert "[7, 6] examples" in found["ragged m-sam"]


def test_stages_with_different_groups(tmp_path: Path) -> None:
    results = run("wrapper_cases", "stages", 2, tmp_path)
    (weight, bias), (other,) = (torch.load(tmp_path / f"norms-{r}.pt") for r in range(2))
    norm = float(torch.stack([weight, bias, other]).norm())
    size = float(torch.stack([0.2 * weight, 0.4 * bias, 0.2 * other]).norm()) / norm
    for found in results:
        assert found == (pytest.approx(norm, rel=1e-12), pytest.approx(size, rel=1e-9))


def test_replicas_that_change(tmp_path: Path) -> None:
    model = network(3, DOUBLE, norm=False)
    opt = MSAM(model.parameters(), torch.optim.SGD, **SGD)
    for i in range(4):
        x, y = data(i, 24, DOUBLE)
        parts = list(zip(x.tensor_split(2), y.tensor_split(2), strict=True))
        opt.step(loss_fn=losses(model), batches=parts)
    for found in run("wrapper_cases", "replicas", 2, tmp_path):
        said, ends = found["anew False"]
        assert said == 4 * [""]
        assert close(ends, weights(model))
        said, _ = found["anew True"]
        assert [bool(text) for text in said] == [False, False, True, False], said
        assert "the one that did run is used from here on" in said[2]
        assert found["another's no_sync"] == ""
        assert "inside no_sync()" in found["two steps in no_sync"]
        assert "static_graph=True" in found["static graph"]
        assert "inside Join(" in found["join"]


def test_fsdp1_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be built without a GPU; its class and its mark on parameters are what is seen."""
    kind = type("FullyShardedDataParallel", (torch.nn.Sequential,), {})
    monkeypatch.setattr("torch.distributed.fsdp.FullyShardedDataParallel", kind)
    model = kind(network(3))
    with pytest.raises(InputError, match="use fully_shard"):
        SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)
    flat = torch.nn.Parameter(torch.ones(3))
    flat._is_flat_param = True  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="use fully_shard"):
        SAM([flat], torch.optim.SGD, **SGD)
