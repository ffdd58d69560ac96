"""Data-parallel loops of one's own against one process, and what a rank that stays away does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ddp_cases import DOUBLE, SGD, STEPS
from practice_cases import SIZES, WAYS, Batch, micro_batches
from problems import equal, losses, network, weights
from ranks import all_skipped_the_second, run
from torch import Tensor

from lowland.optim import MSAM

WORLDS = [2, pytest.param(4, marks=pytest.mark.slow)]


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(left, right, strict=True)
    )


def simulated(world: int, across: str) -> list[Tensor]:
    """m-SAM in one process, where the shards of a step are those that share an ε."""
    model = network(3, DOUBLE, norm=False)
    opt = MSAM(model.parameters(), torch.optim.SGD, **SGD)
    for i in range(STEPS):
        devices = [micro_batches(i, rank, world) for rank in range(world)]
        shards: list[Batch] = [part for parts in devices for part in parts]
        if across == "global":
            together = zip(*devices, strict=True)
            shards = [
                (torch.cat([x for x, _ in p]), torch.cat([y for _, y in p])) for p in together
            ]
        opt.step(loss_fn=losses(model), batches=shards)
    return weights(model)


@pytest.mark.parametrize("world", WORLDS)
def test_an_epsilon_for_each_micro_batch(world: int, tmp_path: Path) -> None:
    """ "global": a micro-batch of all devices together has an ε; "local": that of one device."""
    results = run("practice_cases", "m_sam", world, tmp_path)
    expected = {across: simulated(world, across) for across in ("global", "local")}
    assert not close(expected["global"], expected["local"]), "it matters"
    for across in expected:
        passes = 2 if across == "global" else 1
        for how in WAYS:
            for result in results:
                found = result[f"{across} {how}"]
                assert equal(found, results[0][f"{across} {how}"]), "replicas are the same"
                assert close(found, expected[across]), (across, how)
                exchanges = result[f"{across} {how} wire"]
                assert exchanges == passes * len(SIZES) * STEPS, (across, how)


@pytest.mark.parametrize("world", WORLDS)
def test_one_rank_overflows_in_two_step_form(world: int, tmp_path: Path) -> None:
    results = run("practice_cases", "overflow_in_two_steps", world, tmp_path)
    all_skipped_the_second(results)


@pytest.mark.slow
def test_a_failing_rank_that_stays_alive_costs_the_others_the_timeout(tmp_path: Path) -> None:
    """They end with the error of the process group, at w."""
    there, failed = run("practice_cases", "stays_away", 2, tmp_path)
    assert failed["said"].startswith("MemoryError")
    assert "imed out" in there["said"]
    assert there["passes"] == failed["passes"] == 2
    assert there["at w"]
    assert failed["at w"]
