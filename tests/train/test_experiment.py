"""Experiments: rows in a run directory, the same whoever computes them, and whole or absent."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowland.core.errors import InputError
from lowland.core.files import locked
from lowland.train import (
    Event,
    Experiment,
    Local,
    Progress,
    Recipe,
    Runnable,
    Watch,
    check_any,
    read_history,
    read_record,
    run_any,
)
from lowland.train import experiment as module
from lowland.train.directory import begin
from lowland.train.pool import ONE_THREAD

DRIVER = Path(__file__).with_name("kill_driver.py")


def made(name: str = "walk", **changes: Any) -> Experiment:
    return Experiment(function=f"made_experiments:{name}", **changes)


def rows(folder: Path) -> list[dict[str, str]]:
    """The history, bit for bit."""
    history = read_history(folder / "history.parquet")
    return [{name: repr(value) for name, value in row.items()} for row in history]


def test_rows_become_the_history_of_a_run(tmp_path: Path) -> None:
    news: list[Progress] = []
    experiment = made(settings={"steps": 2, "drift": 1.5}, method="walk", rho=0.5, seed=3)
    folder = experiment.run(tmp_path, on_progress=news.append)
    history = read_history(folder / "history.parquet")
    assert [row["step"] for row in history] == [0, 1]
    assert history[0]["sometimes"] == 1
    assert "sometimes" not in history[1]
    assert {row["seed"] for row in history} == {3}
    assert {row["rho"] for row in history} == {0.5}
    assert [(p.step, p.steps, p.row is not None, p.finished) for p in news] == [
        (0, 1, False, False),
        (0, 1, True, False),
        (0, 1, True, False),
        (1, 1, False, True),
    ]
    record = read_record(folder, folder.name)
    assert record["status"] == "finished"
    assert record["diverged"] is False
    assert record["seconds"]["compute"] >= 0
    assert record["sessions"][0]["threads"] == 1
    assert record["experiment"] == {
        "function": "made_experiments:walk",
        "settings": {"drift": 1.5, "steps": 2},
        "rho": 0.5,
        "seed": 3,
        "threads": 1,
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "history.parquet",
        "run.json",
    ]


def test_a_finished_experiment_is_returned_without_a_change(tmp_path: Path) -> None:
    folder = made().run(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with locked(folder):  # not even the lock is asked for
        assert made().run(tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_generators_and_threads_are_its_own_and_put_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    first = rows(made(seed=1).run(tmp_path / "first"))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    torch.rand(3)
    np.random.rand(3)
    random.random()
    assert rows(made(seed=1).run(tmp_path / "second")) == first
    other = rows(made(seed=2).run(tmp_path))
    for name in ("torch", "numpy", "python"):
        assert first[0][name] != other[0][name]
    assert rows(made(seed=1, threads=threads + 1).run(tmp_path))[0]["threads"] == f"{threads + 1}"
    assert torch.get_num_threads() == threads
    with pytest.raises(RuntimeError, match="a bug"):
        made("breaks", threads=threads + 1).run(tmp_path)
    assert torch.get_num_threads() == threads


def test_the_name_depends_on_what_determines_the_rows_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = made(settings={"steps": 1})
    same = (made(settings=[("steps", 1)]), made(settings={"steps": 1}, method="a label"))
    different = [
        made(settings={"steps": 1.0}),
        made(settings={"steps": True}),
        made(settings={"steps": 1, "drift": 0.0}),
        made(settings={"steps": 1}, seed=1),
        made(settings={"steps": 1}, rho=0.1),
        made(settings={"steps": 1}, threads=2),
        made("fixed", settings={"rows": [1]}),
    ]
    assert {base, *same} == {base}
    assert len({experiment._name() for experiment in (base, *same)}) == 1
    everything = [base, *different]
    assert len(set(everything)) == len(everything)
    names = {experiment._name() for experiment in everything}
    assert len(names) == len(everything)
    for attribute, value in (("source_hash", lambda parts: "other"), ("DETERMINES", ("core",))):
        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, value)
            assert base._name() not in names
    with monkeypatch.context() as patch:  # the file of a function outside lowland
        read = Path.read_bytes
        patch.setattr(Path, "read_bytes", lambda path: read(path) + b"# changed")
        assert base._name() not in names


def test_settings_are_plain_and_nested_lists_come_back_as_they_were() -> None:
    experiment = made(settings={"b": [1, [2.5, None]], "a": "word", "c": True})
    assert experiment.to_dict()["settings"] == {"a": "word", "b": [1, [2.5, None]], "c": True}
    plain = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment(**plain) == experiment
    assert Experiment(**plain).to_dict() == plain
    assert hash(Experiment(**plain)) == hash(experiment)
    assert experiment.arguments["b"] == (1, (2.5, None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": "made_experiments"}, "function must be package.module:function"),
        ({"rho": -0.1}, "rho must be finite and 0 or more, not -0.1"),
        ({"rho": float("nan")}, "rho must be finite and 0 or more, not nan"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
        ({"seed": 0.5}, "seed must be a whole number, 0 or more, not 0.5"),
        ({"threads": 0}, "threads must be a whole number, 1 or more, not 0"),
        ({"settings": {"seed": 1}}, "settings have seed, which the experiment has itself"),
        ({"settings": {"a": {1}}}, "settings.a must be numbers, words or lists of them, not {1}"),
        ({"settings": {"a": [float("inf")]}}, "settings.a must be finite, not inf"),
    ],
)
def test_an_unusable_value_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Experiment(**{"function": "made_experiments:walk", **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("no_such_module:walk", {}, "No module named 'no_such_module'"),
        ("made_experiments:wlak", {}, "made_experiments has no function wlak"),
        ("made_experiments:NO_FUNCTION", {}, "made_experiments has no function NO_FUNCTION"),
        ("made_experiments:walk", {"stride": 1}, "settings do not fit made_experiments:walk"),
        ("made_experiments:fixed", {}, "missing a required argument: 'rows'"),
    ],
)
def test_what_cannot_be_called_is_found_out_by_a_check(
    tmp_path: Path, function: str, settings: dict[str, Any], message: str
) -> None:
    experiment = Experiment(function=function, settings=settings)
    for refused in (experiment.check, lambda: experiment.run(tmp_path)):
        with pytest.raises(InputError) as caught:
            refused()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_none_are_refused_and_what_is_not_finite_is_marked(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="strange gave a Tensor as value: rows are of int, float"):
        made("strange").run(tmp_path)
    with pytest.raises(ValueError, match="made_experiments:fixed gave no rows"):
        made("fixed", settings={"rows": []}).run(tmp_path)
    folder = made("infinite").run(tmp_path)
    assert read_record(folder)["diverged"] is True
    assert [row["value"] for row in read_history(folder / "history.parquet")] == [1.0, np.inf]
    folder = made("fixed", settings={"rows": [0.5, 2]}).run(tmp_path)
    assert read_history(folder / "history.parquet") == [
        {"value": 0.5, "large": 0},
        {"value": 2.0, "large": 1},
    ]


@pytest.mark.slow
def test_recipes_and_experiments_side_by_side_in_one_pool(tiny: Any, tmp_path: Path) -> None:
    """Equal ones once, whatever their labels; what fails is one line and leaves the others."""
    good, again = made(method="one"), made(method="another")
    jobs: list[Runnable] = [good, tiny(), made("breaks"), again, made("refuses"), made(seed=1)]
    events: list[Event] = []
    outcomes = Local(workers=2).launch(jobs, tmp_path / "pool", Watch(on_event=events.append))
    assert outcomes[0] is outcomes[3]
    assert [outcome.error for outcome in outcomes] == [
        None,
        None,
        "RuntimeError: a bug of theirs",
        None,
        "this cannot be: do that",
        None,
    ]
    assert "in breaks" in (outcomes[2].detail or "")
    assert outcomes[4].detail is None
    assert len([event for event in events if event.outcome]) == 5
    assert len(list((tmp_path / "pool").iterdir())) == 5  # the failed ones too, not finished
    for outcome in (outcomes[0], outcomes[1], outcomes[5]):
        assert outcome.folder is not None
        alone = run_any(outcome.recipe, tmp_path / "alone")
        assert alone.name == outcome.folder.name
        if isinstance(outcome.recipe, Experiment):
            assert rows(alone) == rows(outcome.folder)


def test_a_recipe_is_runnable_too(tiny: Any, tmp_path: Path) -> None:
    jobs: list[Runnable] = [tiny(data="digits"), made()]
    assert [job.files for job in jobs] == [(), ()]
    assert Recipe(data="parquet:a/b").files == ("a/b",)
    with pytest.raises(InputError, match="make no whole batch"):
        check_any(tiny(batch_size=5000))


def test_a_directory_in_use_or_damaged_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / made()._name()
    with locked(folder), pytest.raises(InputError, match="in use by another process"):
        made().run(tmp_path)
    folder = made().run(tmp_path)
    (folder / "history.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        made().run(tmp_path)


@pytest.mark.slow
def test_killed_before_every_change_of_the_disk_it_starts_again(tmp_path: Path) -> None:
    expected = rows(made().run(tmp_path / "whole"))
    count = 12
    jobs = [
        {
            "experiment": made().to_dict(),
            "root": str(tmp_path / f"killed-{n}"),
            "kills": [n],
            "log": str(tmp_path / f"log-{n}"),
        }
        for n in range(1, count)
    ]
    description = tmp_path / "jobs.json"
    description.write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(description)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = [int(line) for line in done.stdout.split()]
    # the last ones find fewer changes than that, so every change had its turn
    assert killed == sorted(killed, reverse=True)
    assert 3 <= sum(killed) < count - 2
    for job in jobs:
        (folder,) = Path(str(job["root"])).iterdir()
        assert rows(folder) == expected
        names = sorted(path.name for path in folder.iterdir())
        assert names == [".lock", "history.parquet", "run.json"], job
        (table,) = (Path(str(job["log"])) / "csv").rglob("*.csv")
        lines = table.read_text().splitlines()
        assert len(lines) == 1 + len(expected), job  # each row once, however often it was killed


def test_a_directory_that_was_taken_over_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_over(progress: Progress) -> None:
        if progress.row is not None:
            (folder,) = tmp_path.iterdir()
            (folder / ".lock").write_text("another")

    with pytest.raises(InputError, match="was taken over by another process"):
        made().run(tmp_path, on_progress=taken_over)
    (folder,) = tmp_path.iterdir()
    assert read_record(folder)["status"] == "running"
    assert begin(folder, {"run": folder.name}) is None
    made().run(tmp_path)
    assert read_record(folder)["status"] == "finished"


def test_an_experiment_that_asks_for_a_device_is_told_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = torch.cuda.is_available()
    folder = made("where", device="auto").run(tmp_path)
    assert read_history(folder / "history.parquet") == [{"cuda": int(there)}]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not there)
    assert made("where", device="auto")._name() != folder.name  # other rows, another run
    with pytest.raises(InputError, match="settings do not fit"):
        made("where").check()  # on the CPU nothing is told
    with pytest.raises(InputError, match="cudo"):
        made("where", device="cudo")


def test_a_device_is_part_of_an_experiment_and_files_are_not() -> None:
    assert made() != made(device="auto")
    assert made().to_dict().keys() == made(files=("a",)).to_dict().keys()
    assert made(files=("a",)) == made(files=("b",))
    assert made(files=("a",)).files == ("a",)


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device=cpu or device=auto"):
        made("where", device="cuda").run(tmp_path)
    assert list(tmp_path.iterdir()) == []
