"""With nonfinite="device" the host never waits for a number from the device.

On a GPU torch itself says so (synchronisation set to raise). Without one, the same code runs on the
CPU as if it were a GPU, under a mode that raises wherever a tensor's value is asked for.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forms import FORMS, OWN, THREE, step_by
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lowland.optim import SAM, create
from lowland.optim.engine import Engine

WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique"}
STATELESS = ["closure", "context", "two-step", "batch"]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class NoWaiting(TorchDispatchMode):
    """Raises where the host asks for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITS:
            raise AssertionError(f"the host waits: {func}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "reads_freely", property(lambda self: False))


def fused(name: str, model: nn.Module, **options: Any) -> Any:
    return create(
        name, model, torch.optim.Adam, lr=0.01, fused=True, nonfinite="device",
        **{**OWN.get(name, {}), **options},
    )  # fmt: skip


CASES = [
    (name, form)
    for name in ("sam", "asam", "f-sam", "looksam", "sam-on", "m-sam", "fedasam", "mofedsam")
    for form in STATELESS
    if name not in ("m-sam", "fedasam", "mofedsam") or form == "batch"
]


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("groups", [1, 2])
def test_no_value_is_asked_for(name: str, form: str, groups: int, as_if_gpu: None) -> None:
    model, twin = network(3), network(3)
    opt, ordinary = fused(name, model), fused(name, twin)
    if groups == 2:
        for each in (opt, ordinary):
            first = each.param_groups[0]
            extra = {**first, "params": first["params"][1:], "rho": 0.02}
            del first["params"][1:]
            each.param_groups.append(extra)
    for i in range(5):
        with NoWaiting():
            FORMS[form](opt, model, *data(i))
        FORMS[form](ordinary, twin, *data(i))
    assert equal(weights(model), weights(twin))


def test_waiting_would_be_seen(as_if_gpu: None) -> None:
    model = network(3)
    opt = create("sam", model, torch.optim.Adam, lr=0.01)  # nonfinite="skip" looks once a step
    with pytest.raises(AssertionError, match="the host waits"), NoWaiting():
        opt.step(closure_for(opt, model, *data(0)))


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("name", ["sam", "f-sam", "looksam"])
def test_skipping_without_waiting(bad: int, name: str, as_if_gpu: None) -> None:
    model = network(3)
    opt = fused(name, model)
    count = 0

    def closure(i: int) -> Tensor:
        nonlocal count
        opt.zero_grad()
        loss = losses(model)(*data(i)).mean()
        loss = loss * torch.inf if i == 0 and count == bad else loss
        loss.backward()
        count += 1
        return loss

    before = weights(model)
    with NoWaiting():
        opt.step(lambda: closure(0))
    assert equal(weights(model), before)
    assert opt.last is not None
    assert bool(opt.last.skipped)
    with NoWaiting():
        opt.step(lambda: closure(1))
    assert not equal(weights(model), before)
    assert all(torch.isfinite(w).all() for w in weights(model))
    assert int(opt.last.skipped_total) == 1


def on_cuda(name: str, **options: Any) -> tuple[nn.Module, Any]:
    model = network(3).cuda()
    return model, fused(name, model, **options)


def moved(i: int) -> tuple[Tensor, Tensor]:
    x, y = data(i)
    return x.cuda(), y.cuda()


@CUDA
@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_synchronisation_on_a_gpu(name: str, form: str) -> None:
    model, opt = on_cuda(name)
    batches = [moved(i) for i in range(5)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x, y in batches:
            FORMS[form](opt, model, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(w).all() for w in weights(model))


@CUDA
def test_gradient_scaler_on_a_gpu_without_synchronisation() -> None:
    model, opt = on_cuda("sam")
    scaler = torch.amp.GradScaler("cuda")
    batches = [moved(i) for i in range(5)]

    def step(x: Tensor, y: Tensor) -> None:
        with torch.autocast("cuda", dtype=torch.float16):
            loss = losses(model)(x, y).mean()
        scaler.scale(loss).backward()
        with opt.perturbed(scaler=scaler):
            with torch.autocast("cuda", dtype=torch.float16):
                loss = losses(model)(x, y).mean()
            scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()

    step(*batches[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@CUDA
@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_a_captured_step_replays(base: Any, form: str) -> None:
    """A CUDA graph of the whole step, both passes and the base step, equals eager steps."""
    options = {"fused": True} if base is torch.optim.SGD else {"fused": True, "capturable": True}
    nets = [network(3).cuda(), network(3).cuda()]
    opts = [
        SAM(m.parameters(), base, lr=0.01, model=m, nonfinite="device", **options) for m in nets
    ]
    x, y = (t.clone() for t in moved(0))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step_by(form, opts[0], closure_for(opts[0], nets[0], x, y))
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(3):
        step_by(form, opts[1], closure_for(opts[1], nets[1], x, y))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_by(form, opts[0], closure_for(opts[0], nets[0], x, y))
    for i in range(4):
        new_x, new_y = moved(i)
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        step_by(form, opts[1], closure_for(opts[1], nets[1], new_x, new_y))
    for a, b in zip(weights(nets[0]), weights(nets[1]), strict=True):
        torch.testing.assert_close(a, b)
