"""Sharded parameters (FSDP2, tensor and pipeline parallel over gloo) against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forms import BASES, FORMS, THREE, form_batch, make
from problems import closure_for, data, equal, network, sam_by_hand, weights
from ranks import all_skipped_the_second, run
from shard_cases import DOUBLE, NAMES, SAVED, STEPS, with_groups
from torch import Tensor

from lowland.optim import METHODS, SAM

WORLDS = [2, pytest.param(4, marks=pytest.mark.slow)]


def alone(
    name: str, base: str = "sgd", steps: int = STEPS, scheduled: bool = False
) -> tuple[list[Tensor], Any]:
    model = network(3, DOUBLE, norm=False)
    opt = make(name, model, base)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    for i in range(steps):
        form_batch(opt, model, *data(i, 24, DOUBLE))
        if scheduled:
            schedule.step()
    return weights(model), opt.last


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("world", WORLDS)
def test_fully_sharded_is_one_process(world: int, tmp_path: Path) -> None:
    results = run("shard_cases", "forms_and_methods", world, tmp_path)
    for name in NAMES:
        expected, last = alone(name)
        for form in FORMS:
            for result in results:
                assert close(result[f"{name} {form}"], expected), (name, form)
                found = result[f"{name} {form} last"]
                for norm in ("grad_norm", "perturbation_norm"):
                    if norm in found:
                        assert abs(found[norm] / last.metrics()[norm] - 1) < 1e-9, (name, norm)
    model = network(3, DOUBLE, norm=False)
    opt = SAM(with_groups(model), torch.optim.AdamW, rho=0.3, lr=0.01)
    for i in range(STEPS):
        form_batch(opt, model, *data(i, 24, DOUBLE))
    assert opt.last is not None
    for result in results:
        assert close(result["groups"], weights(model))
        norm = result["groups last"]["perturbation_norm"]
        assert abs(norm / opt.last.metrics()["perturbation_norm"] - 1) < 1e-9
    if world == 4:
        assert any(0 in result["shares"] for result in results), "some shares are empty"


REFUSED = {
    "sam-on": "no normalization layer",  # this network has none
    "rw-sam": "not drawn over shards",
    "bayesian-sam": "not drawn over shards",
    "trace-sam": "not drawn over shards",
    "det-sam": "not drawn over shards",
    "frob-sam": "not drawn over shards",
    "sl-sam": "draws whole tensors",
    "gradient-norm": "differentiates by whole parameters",
    "logits-sam": "parameters are sharded",
}
OWN_EXAMPLES = ("m-sam", "esam")
"""Every device divides its own share of the batch, or chooses from it."""


@pytest.mark.slow
def test_every_method_on_shards_is_one_process_or_refuses(tmp_path: Path) -> None:
    results = run("family_cases", "family", 2, tmp_path)
    for name in METHODS:
        for result in results:
            found = result[name]
            if name in REFUSED:
                assert isinstance(found, str), name
                assert REFUSED[name] in found, name
            elif name in OWN_EXAMPLES:
                assert equal(found, results[0][name]), name
            else:
                assert close(found, alone(name)[0]), name


@pytest.mark.parametrize("world", WORLDS)
def test_the_radius_is_rho_and_w_comes_back(world: int, tmp_path: Path) -> None:
    for result in run("shard_cases", "exactly_back", world, tmp_path):
        assert result["bits"]
        assert abs(result["radius"] - 0.05) < 1e-12, "not ρ·√world"
        assert result["after failing"]


@pytest.mark.parametrize("world", WORLDS)
def test_sharded_checkpoints(world: int, tmp_path: Path) -> None:
    saved = run("shard_cases", "save_and_go_on", world, tmp_path / "saved")
    elsewhere = run("shard_cases", "resume_elsewhere", 1 if world == 2 else 3, tmp_path / "other")
    for name, form in SAVED:
        key, expected = f"{name} {form}", alone(name, "adamw", 6)[0]
        for result in saved:
            assert equal(result[key], result[f"{key} resumed"]), f"{key}: bit for bit"
            assert close(result[key], expected), key
        for result in elsewhere:
            assert close(result[key], saved[0][key]), f"{key}: another number of ranks"


@pytest.mark.slow
def test_checkpoints_of_the_plain_base_load_into_it_and_back(tmp_path: Path) -> None:
    kind, settings = BASES["adamw"]
    model = network(3, DOUBLE, norm=False)
    base = kind(model.parameters(), **settings)
    trail = {}
    for i in range(9):
        closure = closure_for(base, model, *data(i, 24, DOUBLE))
        if 3 <= i < 6:
            sam_by_hand(base, closure, 0.3)
        else:
            base.step(closure)
        trail[i] = weights(model)
    for result in run("shard_cases", "plain_and_back", 2, tmp_path):
        assert "rho" in result["strict"], "a strict load raises"
        assert result["rho"] == 0.3
        assert close(result["into sam"], trail[5])
        assert close(result["back"], trail[8])


@pytest.mark.slow
def test_micro_batches_exchange_once_a_pass(tmp_path: Path) -> None:
    expected, _ = alone("sam", scheduled=True)
    assert not close(expected, alone("sam")[0])
    for result in run("shard_cases", "micro_batches", 2, tmp_path):
        for form in THREE:
            assert close(result[form], expected), form
            assert result[f"{form} reductions"] == 2 * STEPS * 2, "two layers with parameters"


def test_one_shard_overflows_and_all_skip(tmp_path: Path) -> None:
    results = run("shard_cases", "overflow", 2, tmp_path)
    all_skipped_the_second(results)


@pytest.mark.slow
def test_local_is_refused(tmp_path: Path) -> None:
    for said in run("shard_cases", "local_is_refused", 2, tmp_path):
        assert "parameters are sharded" in said


@pytest.mark.parametrize("world", WORLDS)
def test_tensor_parallel_is_one_process(world: int, tmp_path: Path) -> None:
    for result in run("shard_cases", "tensor_parallel", world, tmp_path):
        for name in NAMES:
            for form in THREE:
                assert close(result[f"{name} {form}"], alone(name)[0]), (name, form)


@pytest.mark.slow
def test_two_dimensional_meshes(tmp_path: Path) -> None:
    for result in run("shard_cases", "two_dimensions", 4, tmp_path):
        for kind in ("hybrid", "2-D"):
            for name in NAMES:
                assert close(result[f"{kind} {name}"], alone(name)[0]), (kind, name)


def test_a_pipeline_of_two_stages(tmp_path: Path) -> None:
    first, second = run("shard_cases", "pipeline", 2, tmp_path)
    for name in NAMES:
        for form in THREE:
            found = first[f"{name} {form}"] + second[f"{name} {form}"]
            assert close(found, alone(name)[0]), (name, form)
