"""Recipe settings that make runs fast on a GPU: they are the same training, and no host waits."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_waits import HostWaits
from torch import Tensor

from lowland.core.errors import InputError
from lowland.optim import METHODS
from lowland.optim.displacement import Displacement, Shift, contained
from lowland.optim.engine import Engine
from lowland.train import Recipe, run, trainer
from lowland.train.classification import start
from lowland.train.plan import make_plan, run_id
from lowland.train.stepped import FEDERATED

Make = Callable[..., Recipe]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
FAST = {"memory_format": "channels_last", "fused": True}
SMALL = {"limit": 96, "batch_size": 32, "width": 4, "rank_examples": 40, "device": "cpu"}
RANDOM = {"bayesian-sam", "det-sam", "frob-sam", "rw-sam", "trace-sam"}
"""Methods that draw numbers for every weight, in the order in which weights lie in memory."""


def trained(recipe: Recipe, updates: int = 3) -> Any:
    """The trainer after some updates."""
    work = start(make_plan(recipe))
    for step, batch in zip(range(updates), work.batches(0, 0), strict=False):
        work.trainer.update(step, *batch)
    return work.trainer


def weights(of: Any) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in of.module.state_dict().items()}


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], **limits: Any) -> None:
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], check_stride=False, **limits)


# The same training


FEW = {"asam", "gsam", "looksam", "m-sam", "sam", "sl-sam"}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow])
        for name in METHODS
        if name not in FEDERATED
    ],
)
def test_layout_and_fused_kernels_are_the_same_method(method: str) -> None:
    """In float64, where rounding cannot hide a difference."""
    own = METHODS[method].kind == "base optimizer"
    values = {**SMALL, "method": method, "rho": 0.1, "precision": "64-true", "lr": 0.01}
    momentum = 0.0 if method == "sl-sam" else 0.9
    values |= {"limit": 64} | ({} if own else {"momentum": momentum, "weight_decay": 1e-3})
    fast: dict[str, Any] = {**FAST, "fused": not own}
    fast |= {"memory_format": "contiguous"} if method in RANDOM else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mup2 of a residual network says what it is not
        plain, other = (trained(Recipe(**{**values, **changes}), 2) for changes in ({}, fast))
    assert_close(weights(plain), weights(other), rtol=1e-7, atol=1e-9)
    if not own:
        assert other.optimizer._engine.on_device
        assert not plain.optimizer._engine.on_device


@pytest.mark.parametrize(
    "model", ["preact-resnet18-4x4", "resnet-small", "mlp", "vit-mini", "mixer-mini"]
)
def test_any_network_can_lie_by_channels(model: str) -> None:
    values = {**SMALL, "limit": 32, "model": model, "method": "sam", "rho": 0.1}
    values |= {"width": 8, "depth": 1, "precision": "64-true", "rank_block": "block1"}
    plain, other = (trained(Recipe(**{**values, **c}), 1) for c in ({}, FAST))
    assert_close(weights(plain), weights(other), rtol=1e-7, atol=1e-9)


def test_everything_of_the_step_lies_as_the_weights_do() -> None:
    """Lists of tensors that lie alike are worked on in few kernels, others one by one."""
    work = trained(Recipe(**SMALL, **FAST, method="sam", rho=0.1, momentum=0.9))
    kernels = [p for p in work.module.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert kernels
    store = work.optimizer._engine.displacement._store
    for p in kernels:
        alike = [
            p.grad,
            work.optimizer.state[p]["momentum_buffer"],
            store.buffers[store.places[id(p)]],
        ]
        assert p.is_contiguous(memory_format=torch.channels_last)
        assert {t.stride() for t in alike} == {p.stride()}


def test_a_contained_perturbation_lies_as_the_gradient_does() -> None:
    draws = torch.Generator().manual_seed(0)
    sizes = [(4, 3, 3, 3), (5,), (6, 4, 1, 1), (2, 3), (4, 2, 2, 2)]
    tensors = [torch.randn(size, generator=draws) for size in sizes]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors[0][1, 2, 0, 1], tensors[4][0, 0, 0, 0] = torch.inf, torch.nan
    for t, made in zip(tensors, contained(tensors, torch.tensor(0.5)), strict=True):
        assert torch.equal(made, (0.5 * t).nan_to_num(0.0, 0.0, 0.0))
        assert made.stride() == t.stride()


@pytest.mark.parametrize("scale", [0.25, torch.tensor(0.25)])
def test_weights_by_channels_move_and_come_back(scale: Any) -> None:
    draws = torch.Generator().manual_seed(0)
    w = torch.randn(4, 3, 2, 2, generator=draws).contiguous(memory_format=torch.channels_last)
    d = torch.randn(4, 3, 2, 2, generator=draws)  # lies otherwise than w
    before, moved = w.clone(), Displacement()
    moved.go([Shift([w], [d], scale)])
    assert torch.equal(w, before + 0.25 * d)
    moved.come_back()
    assert torch.equal(w, before)


# Resuming


@pytest.mark.parametrize("method", ["none", "sam"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    tiny: Make, tmp_path: Path, result: Any, method: str
) -> None:
    rho = 0.0 if method == "none" else 0.1
    recipe = tiny(model="preact-resnet-small", width=4, method=method, rho=rho, **FAST)
    whole = run(recipe, tmp_path / "whole")

    def stop(progress: Any) -> None:
        if progress.row is not None and progress.row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", on_progress=stop)
    assert result(run(recipe, tmp_path / "stopped")) == result(whole)


def test_state_from_a_file_lies_as_the_weights_do() -> None:
    parameter = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    mean, count = torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor(3.0)
    state = {parameter: {"mean": mean, "count": count, "rows": torch.randn(4, 3)}}
    trainer.lay_out_alike(state)
    laid = state[parameter]["mean"]
    assert laid.stride() == parameter.stride()
    assert laid.dtype == torch.float64
    assert torch.equal(laid, mean)
    assert state[parameter]["count"] is count


# No waiting


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "reads_freely", property(lambda self: False))


def waits(recipe: Recipe, updates: int = 4) -> list[dict[str, int]]:
    """What the host waits for in each update, and between it and the one before."""
    work = start(make_plan(recipe))
    data, found = work.batches(0, 0), HostWaits()
    with found:
        for step in range(updates):
            batch = next(data)
            work.trainer.update(step, *batch)
            found.lap()
    return [dict(lap) for lap in found.laps]


@pytest.mark.parametrize("changes", [{}, FAST, {**FAST, "precision": "bf16-mixed"}])
def test_plain_training_waits_for_nothing(changes: dict[str, Any], as_if_gpu: None) -> None:
    values = {**SMALL, "limit": 128, "method": "none", "momentum": 0.9}
    assert waits(Recipe(**{**values, **changes})) == [{}] * 4


@pytest.mark.parametrize("changes", [FAST, {**FAST, "precision": "bf16-mixed"}])
@pytest.mark.parametrize("method", ["sam", "asam", "f-sam", "looksam", "m-sam", "sam-on"])
def test_fused_methods_wait_for_nothing(
    method: str, changes: dict[str, Any], as_if_gpu: None
) -> None:
    values = {**SMALL, "limit": 128, "method": method, "rho": 0.1, "momentum": 0.9}
    assert waits(Recipe(**{**values, **changes})) == [{}] * 4


def test_without_fused_kernels_sam_waits_once_in_an_update(as_if_gpu: None) -> None:
    """For whether to skip it: ``nonfinite="skip"`` asks, as its documentation says."""
    values = {**SMALL, "limit": 128, "method": "sam", "rho": 0.1}
    asked = waits(Recipe(**values))
    assert [sum(lap.values()) for lap in asked] == [1, 1, 1, 1]
    given = {"method_options": {"nonfinite": "skip"}, "fused": True}
    assert [sum(lap.values()) for lap in waits(Recipe(**{**values, **given}))] == [1, 1, 1, 1]


@CUDA
@pytest.mark.parametrize("method", ["none", "sam"])
@pytest.mark.parametrize("changes", [FAST, {**FAST, "precision": "bf16-mixed"}])
def test_no_synchronisation_on_a_gpu(method: str, changes: dict[str, Any]) -> None:
    values = {**SMALL, "device": "cuda", "method": method, "rho": 0.1 if method == "sam" else 0.0}
    work = start(make_plan(Recipe(**{**values, "limit": 128, **changes})))
    for step, batch in enumerate(work.batches(0, 0)):
        work.trainer.update(step, *batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(work.batches(1, 0), start=4):
            work.trainer.update(step, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(p).all() for p in work.trainer.module.parameters())


def test_steps_skipped_on_the_device_are_counted(as_if_gpu: None) -> None:
    recipe = Recipe(**SMALL, **FAST, method="sam", rho=0.1, precision="bf16-mixed")
    work = start(make_plan(recipe))
    with torch.no_grad():
        work.trainer.module.head.weight.fill_(torch.inf)  # type: ignore[operator, union-attr]
    for step, batch in enumerate(work.batches(0, 0)):
        work.trainer.update(step, *batch)
    assert work.trainer.skipped == 3
    assert isinstance(work.trainer.skipped, int)


def test_what_torch_cannot_fuse_is_named() -> None:
    values = {**SMALL, "method": "sl-sam", "rho": 0.1, "momentum": 0.9, "fused": True}
    with pytest.raises(InputError, match=r"^sl-sam trains other parameters in every update"):
        start(make_plan(Recipe(**values)))


# Compiled passes


def test_a_compiled_run_trains_the_bare_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a backend that runs the captured graph as it is, so that the bits must be the same."""
    monkeypatch.setattr(trainer, "BACKEND", "eager")
    values = {**SMALL, "method": "sam", "rho": 0.1, "momentum": 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = trained(Recipe(**values, compile=True))
    eager = trained(Recipe(**values))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert_close(weights(compiled), weights(eager), rtol=0, atol=0)
    assert not any(name.startswith("_orig_mod") for name in weights(compiled))
    assert type(compiled.module) is type(eager.module)  # what evaluations run


def test_evaluations_do_not_make_it_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They switch modes and hang hooks into the same modules."""
    monkeypatch.setattr(trainer, "BACKEND", "eager")
    work = start(make_plan(Recipe(**SMALL, **FAST, method="sam", rho=0.1, compile=True)))
    stats = torch._dynamo.utils.counters["stats"]
    graphs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for step, batch in enumerate(work.batches(0, 0)):
            work.trainer.update(step, *batch)
            graphs.append(stats["unique_graphs"])
            work.evaluator(start=step == 0)
    assert len(graphs) == 3
    assert len(set(graphs)) == 1


@pytest.mark.slow
def test_a_run_by_the_real_compiler(tiny: Make, tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    values = {"model": "preact-resnet-small", "width": 4, "epochs": 1, "evaluations": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = trained(tiny(**values, compile=True))
    assert_close(weights(compiled), weights(trained(tiny(**values))), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("device", "patch", "message"),
    [
        ("cpu", (shutil, "which"), "compile=true on cpu needs a C++ compiler"),
        ("cuda", ("importlib.util", "find_spec"), "compile=true on cuda needs Triton"),
    ],
)
def test_a_missing_compiler_is_named(
    device: str, patch: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from lowland.train import plan

    where = importlib.util if patch[0] == "importlib.util" else patch[0]
    monkeypatch.setattr(where, patch[1], lambda name: None)
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        plan._check_compiler(device)


# The recipe


def test_each_setting_is_part_of_what_determines_a_run(tiny: Make) -> None:
    changes = [{}, {"memory_format": "channels_last"}, {"compile": True}, {"fused": True}]
    names = {run_id(tiny(**c), fingerprints=["0"], device="cpu") for c in changes}
    assert len(names) == 4


def test_records_from_before_these_settings_are_recipes_still(tiny: Make) -> None:
    plain = tiny().to_dict()
    for name in ("memory_format", "compile", "fused"):
        del plain[name]
    assert Recipe.from_mapping(plain) == tiny()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_format": "channel_last"}, "did you mean 'channels_last'?"),
        ({"compile": "yes"}, "compile must be true or false"),
        ({"method": "adasam", "fused": True}, "adasam brings its own: set fused=false"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_mapping(changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
