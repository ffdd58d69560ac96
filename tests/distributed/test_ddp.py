"""Data-parallel training (DDP over gloo) against one process that has the whole batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_cases import DOUBLE, SGD, STEPS, TRAJECTORY, epochs
from forms import FORMS, TWO_PASS, form_batch, make, on_batch
from problems import data, equal, losses, network, weights
from ranks import all_skipped_the_second, finish, run, start
from torch import Tensor

from lowland.optim import MSAM, SAF, SAM

WORLDS = [2, pytest.param(4, marks=pytest.mark.slow)]


def alone(opt: Any, model: Any, n: int = 24) -> list[Tensor]:
    for i in range(STEPS):
        form_batch(opt, model, *data(i, n, DOUBLE))
    return weights(model)


def plain(name: str = "sam", **options: Any) -> tuple[Any, Any]:
    model = network(3, DOUBLE, norm=False)
    return make(name, model, **options), model


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(left, right, strict=True)
    )


def same_everywhere(results: list[Any], key: str) -> list[Tensor]:
    """The weights under `key`, which are the same on all ranks bit for bit."""
    assert all(equal(results[0][key], other[key]) for other in results[1:]), key
    found: list[Tensor] = results[0][key]
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_global_is_one_process_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    results = run("ddp_cases", "whole_batch", world, tmp_path)
    for name in TWO_PASS:
        if name == "sam-on":
            continue
        expected = alone(*plain(name))
        for form in FORMS:
            for view in (False, True):
                found = same_everywhere(results, f"{name} {form} {view}")
                assert close(found, expected), (name, form, view)
    by_buckets, by_copies = (same_everywhere(results, f"m-sam {view}") for view in (True, False))
    assert equal(by_buckets, by_copies), "the next shard overwrites the buckets"
    assert close(same_everywhere(results, "ragged"), alone(*plain(), n=13))
    assert close(same_everywhere(results, "micro-batches"), alone(*plain(), n=26))
    assert results[0]["micro-batches, reductions"] == 2 * STEPS, "one for each pass"


@pytest.mark.parametrize("world", WORLDS)
def test_local_is_m_sam_with_m_the_batch_of_a_device(world: int, tmp_path: Path) -> None:
    results = run("ddp_cases", "own_batch", world, tmp_path)

    def simulated(n: int, **options: Any) -> list[Tensor]:
        model = network(3, DOUBLE, norm=False)
        opt = MSAM(model.parameters(), torch.optim.SGD, **SGD, **options)
        for i in range(STEPS):
            x, y = data(i, n, DOUBLE)
            parts = list(zip(x.tensor_split(world), y.tensor_split(world), strict=True))
            opt.step(loss_fn=losses(model), batches=parts)
        return weights(model)

    for form in ("closure", "batch", "context", "two-step"):
        for given in (False, True):
            found = same_everywhere(results, f"{form} {given}")
            assert close(found, simulated(25 if form == "batch" else 24)), (form, given)
            assert results[0][f"{form} {given} wire"] == STEPS, "the second pass alone exchanges"
    same_everywhere(results, "asam")
    every = same_everywhere(results, "every")
    assert results[0]["every wire"] == STEPS
    assert close(every, simulated(24, every=2))
    assert not close(every, simulated(24))
    model = network(3, DOUBLE, norm=False)
    whole = SAM(model.parameters(), torch.optim.SGD, **SGD)
    assert not close(alone(whole, model), simulated(24)), "m matters here"


def test_methods_with_passes_of_their_own_keep_replicas_the_same(tmp_path: Path) -> None:
    results = run("ddp_cases", "plans", 2, tmp_path)
    before = weights(network(3, DOUBLE, norm=False))
    for key in results[0]:
        assert not equal(same_everywhere(results, key), before)


def test_one_rank_overflows_and_all_skip(tmp_path: Path) -> None:
    results = run("ddp_cases", "overflow", 2, tmp_path)
    all_skipped_the_second(results)


def test_mistakes_are_said_on_every_rank(tmp_path: Path) -> None:
    for said in run("ddp_cases", "mistakes", 2, tmp_path):
        for form in FORMS:
            assert "inside no_sync()" in said[f"no_sync {form}"], said
        assert said["moved"] == "False"
        assert "[7, 6] examples" in said["ragged m-sam"]
        assert "no DistributedDataParallel module ran" in said["no wrapper"]


def test_gradients_that_were_not_exchanged_are_an_error_in_the_first_step(tmp_path: Path) -> None:
    for said in run("ddp_cases", "not_exchanged", 2, tmp_path):
        for key in ("closure", "closure, plain steps", "closure, local", "second", "second, local"):
            assert "different gradients (norms" in said[key][0], (key, said[key])
            assert said[key][1], f"{key}: the weights must not have moved"
        for key in ("closure", "first", "first, wrapper found", "past the wrapper"):
            assert "at w)" in said[key][0], (key, said[key])
            assert "perturbation='local'" in said[key][0]
            assert said[key][1], key
        assert said["exchanged, local"][0].count("the same gradient at w") == 1, "said once"
        assert said["right"] == said["right, local"] == ("", False)


@pytest.mark.parametrize("world", WORLDS)
def test_a_failing_rank_leaves_the_others_at_w_and_not_waiting(world: int, tmp_path: Path) -> None:
    began = time.monotonic()
    printed = finish(start("ddp_cases", "failing", world, tmp_path), seconds=80)
    assert time.monotonic() - began < 60, "well below the timeout of the process group"
    for rank in range(world):
        name, at_w = torch.load(tmp_path / f"failed-{rank}.pt", weights_only=False)
        assert at_w, (rank, printed[rank])
        assert (name == "MemoryError") == (rank == 1)


def test_what_was_said_of_an_example_elsewhere_is_known(tmp_path: Path) -> None:
    """SAF's record is that of one process, though examples move between devices."""
    found = same_everywhere(run("ddp_cases", "wandering", 2, tmp_path), "saf")
    model = network(3, DOUBLE, norm=False)
    opt = SAF(model.parameters(), torch.optim.SGD, **TRAJECTORY, **SGD)
    x, y = data(0, 8, DOUBLE)
    for numbers in epochs(4):
        on_batch(opt, model, losses(model), (x[numbers], y[numbers]), numbers=numbers)
    assert close(found, weights(model))
    plain_model = network(3, DOUBLE, norm=False)
    base = torch.optim.SGD(plain_model.parameters(), lr=SGD["lr"], momentum=SGD["momentum"])
    for numbers in epochs(4):
        base.zero_grad()
        losses(plain_model)(x[numbers], y[numbers]).mean().backward()
        base.step()
    assert not close(found, weights(plain_model)), "the term is there"
