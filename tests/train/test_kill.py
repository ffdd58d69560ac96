"""A run that is killed with SIGKILL, at any moment, ends as if it had never been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowland.train import ContrastiveRecipe, Recipe, run, run_any
from lowland.train.pool import ONE_THREAD

Make = Callable[..., Recipe]
DRIVER = Path(__file__).with_name("kill_driver.py")


def drive(tmp_path: Path, jobs: list[dict[str, Any]]) -> list[int]:
    """Do the jobs in one process; how many children of each were killed."""
    description = tmp_path / "jobs.json"
    description.write_text(json.dumps(jobs))
    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(description)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def only(root: Path) -> Path:
    """The one run directory under `root`."""
    (folder,) = root.iterdir()
    return folder


def test_killed_before_every_change_of_the_disk(tiny: Make, tmp_path: Path, result: Any) -> None:
    """A kill between every two changes, each in a directory of its own."""
    recipe = tiny(epochs=1, batch_size=30, evaluations=1, limit=30)
    expected = result(run(recipe, tmp_path / "whole"))
    count = 20
    jobs = [
        {"recipe": recipe.to_dict(), "root": str(tmp_path / f"killed-{n}"), "kills": [n]}
        for n in range(1, count)
    ]
    killed = drive(tmp_path, jobs)
    # the last ones find fewer changes than that, so every change had its turn
    assert killed == sorted(killed, reverse=True)
    assert 10 < sum(killed) < count - 2
    for job in jobs[: sum(killed) + 1]:
        folder = only(Path(job["root"]))
        assert result(folder) == expected, job["kills"]
        names = sorted(path.name for path in folder.iterdir())
        assert names == [".lock", "history.parquet", "run.json", "weights.safetensors"], job


METHODS: dict[str, dict[str, Any]] = {
    "none": {"method": "none", "rho": 0.0},
    "sam": {"method": "sam"},
    "looksam": {"method": "looksam", "method_options": {"k": 3}},
    "f-sam": {"method": "f-sam"},
    "m-sam": {"method": "m-sam", "method_options": {"m": 5}},
    "sam over adamw": {"method": "sam", "base": "adamw", "momentum": 0.0, "lr": 0.01},
}


@pytest.mark.slow
def test_killed_again_and_again(tiny: Make, tmp_path: Path, result: Any) -> None:
    """With a state after every update; batch normalisation and momentum carry state too.

    The last run is killed by the clock, wherever that may be, in the middle of a write included.
    """
    small = {"model": "preact-resnet-small", "width": 2, "rank_block": "block3"}
    draw = random.Random(0)
    recipes = [tiny(**changes, **small, epochs=3) for changes in METHODS.values()]
    kills: list[list[float]] = [[draw.randint(3, 15) for _ in range(2)] for _ in recipes]
    recipes.append(tiny(epochs=8))
    kills.append([draw.uniform(0.05, 0.2) for _ in range(5)])
    jobs = [
        {"recipe": recipe.to_dict(), "root": str(tmp_path / f"{number}"), "kills": times}
        for number, (recipe, times) in enumerate(zip(recipes, kills, strict=True))
    ]
    *killed, by_clock = drive(tmp_path, jobs)
    assert killed == [2] * len(METHODS)
    assert by_clock >= 1
    for recipe, job in zip(recipes, jobs, strict=True):
        whole = run(recipe, tmp_path / "whole")
        assert result(only(Path(job["root"]))) == result(whole), recipe.method


@pytest.mark.slow
def test_a_contrastive_run_is_killed_again_and_again(tmp_path: Path, result: Any) -> None:
    """Adam's state, the order and the captions that are drawn: all of it goes on."""
    recipe = ContrastiveRecipe(
        limit=64,
        image="preact-resnet-small",
        image_options={"width": 2},
        text_options={"width": 8, "depth": 1, "heads": 2},
        dimension=8,
        batch_size=16,
        rank_examples=32,
        epochs=2,
        evaluations=2,
        rho=0.1,
        device="cpu",
    )
    kills = [4, 9, 14, 6]
    job = {"contrastive": recipe.to_dict(), "root": str(tmp_path / "killed"), "kills": kills}
    assert drive(tmp_path, [job]) == [len(kills)]
    whole = run_any(recipe, tmp_path / "whole")
    assert result(only(tmp_path / "killed")) == result(whole)
