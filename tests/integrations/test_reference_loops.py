"""The diffs in docs/reference_loops.md, applied and run."""

from __future__ import annotations

import contextlib
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainers import farthest, sam_by_hand, same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import SAM

PAGE = (Path(__file__).parents[2] / "docs" / "reference_loops.md").read_text("utf-8")
RHO, CLIP = 0.3, 0.2


def applied(name: str) -> Any:
    """The code after the diff of that name, for this machine."""
    found = re.search(rf"^```diff {name}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    lines = [line[1:] for line in found[1].splitlines() if not line.startswith("-")]
    return compile("\n".join(lines).replace('"cuda"', '"cpu"'), name, "exec")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batches(n: int = 7) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randn(6, 5, generator=generator), torch.randint(0, 3, (6,), generator=generator))
        for _ in range(n)
    ]


def wrapped(model: nn.Module) -> SAM:
    """As on the page: over the optimizer that the script has made."""
    names: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    block = re.search(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    exec(block[1].replace("rho=0.05", f"rho={RHO}"), names)
    made: SAM = names["optimizer"]
    return made


def by_hand(window: int, clip: float | None) -> list[Tensor]:
    model, given = network(), batches()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for i in range(0, len(given), window):
        x, y = (torch.cat(t) for t in zip(*given[i : i + window], strict=True))
        sam_by_hand(model, base, [lambda x=x, y=y: cross_entropy(model(x), y)], RHO, clip)
    return weights(model)


@pytest.mark.parametrize("clip", [None, CLIP])
def test_torchvision(clip: float | None) -> None:
    model, body = network(), applied("torchvision")
    names = {
        "torch": torch, "nn": nn, "model": model, "optimizer": wrapped(model), "scaler": None,
        "criterion": nn.CrossEntropyLoss(), "args": types.SimpleNamespace(clip_grad_norm=clip),
    }  # fmt: skip
    for image, target in batches():
        names |= {"image": image, "target": target}
        exec(body, names)
    assert farthest(weights(model), by_hand(1, clip)) < 1e-6


@pytest.mark.parametrize("clip", [None, CLIP])
def test_torchvision_in_half_precision(clip: float | None) -> None:
    model, body = network(), applied("torchvision")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    names = {
        "torch": torch, "nn": nn, "model": model, "optimizer": wrapped(model), "scaler": scaler,
        "criterion": nn.CrossEntropyLoss(), "args": types.SimpleNamespace(clip_grad_norm=clip),
    }  # fmt: skip
    with types_of_autocast(torch.bfloat16):
        for image, target in batches():
            names |= {"image": image, "target": target}
            exec(body, names)
    assert farthest(weights(model), by_hand(1, clip)) < 0.02
    assert farthest(weights(model), weights(network())) > 0.08
    assert scaler.get_scale() == 2048.0


@contextlib.contextmanager
def types_of_autocast(dtype: torch.dtype) -> Any:
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", dtype)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cpu", before)


def timm(accumulation: int, clip: float | None, scaler: Any) -> list[Tensor]:
    model, before, body = network(), applied("timm-before"), applied("timm")
    loss_scaler = None if scaler is None else types.SimpleNamespace(_scaler=scaler)

    def dispatch_clip_grad(parameters: Any, value: float, mode: str) -> None:
        nn.utils.clip_grad_norm_(parameters, value)

    names: dict[str, Any] = {
        "torch": torch, "contextlib": contextlib, "model": model, "optimizer": wrapped(model),
        "loss_scaler": loss_scaler, "loss_fn": nn.CrossEntropyLoss(), "has_no_sync": False,
        "amp_autocast": contextlib.nullcontext,
        "args": types.SimpleNamespace(clip_grad=clip, clip_mode="norm"),
        "utils": types.SimpleNamespace(dispatch_clip_grad=dispatch_clip_grad),
        "model_parameters": lambda model, exclude_head: model.parameters(),
    }  # fmt: skip
    exec(before, names)
    given = batches()
    ragged = len(given) - len(given) % accumulation
    for i, (x, y) in enumerate(given):
        last = i == len(given) - 1
        names |= {
            "input": x, "target": y, "need_update": last or (i + 1) % accumulation == 0,
            "accum_steps": len(given) % accumulation if i >= ragged else accumulation,
        }  # fmt: skip
        exec(body, names)
        if names["need_update"]:
            names["optimizer"].zero_grad()
    return weights(model)


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_timm(accumulation: int, clip: float | None) -> None:
    """Without a scaler, and with one whose scale is a power of two: the same bit for bit."""
    plain = timm(accumulation, clip, None)
    assert farthest(plain, by_hand(accumulation, clip)) < 1e-6
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    assert same(plain, timm(accumulation, clip, scaler))
