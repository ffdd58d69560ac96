"""Runs side by side: what ends a worker ends nothing else."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowland.core.errors import InputError
from lowland.core.files import locked
from lowland.train import Event, Outcome, Recipe, read_record, run, run_all

Make = Callable[..., Recipe]


def alive(pid: int) -> bool:
    """Whether a thread of the process still runs (a zombie does not).

    Its first thread may be a zombie while others, which hold its files and locks, are still ending.
    """
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def children() -> set[int]:
    """Living child processes of this one."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if alive(pid)}


def test_each_run_ends_as_it_would_alone_and_none_disturbs_the_others(
    tiny: Make, tmp_path: Path, result: Any
) -> None:
    """One good run asked for twice, one that cannot be, one that breaks, one that is in use."""
    good, other = tiny(), tiny(seed=1)
    bad, broken, used = tiny(labels=[0, 17]), tiny(data="parquet:/dev/null"), tiny(seed=2)
    folder = run(used, tmp_path)
    (folder / "run.json").unlink()
    events: list[Event] = []
    recipes = [good, bad, good, used, broken, other]
    with locked(folder):
        outcomes = run_all(recipes, tmp_path, workers=2, on_progress=events.append)
    assert [outcome.recipe for outcome in outcomes] == recipes
    assert outcomes[0] is outcomes[2]
    for outcome in (outcomes[0], outcomes[5]):
        assert outcome.error is None
        assert outcome.folder is not None
        whole = run(outcome.recipe, tmp_path / "whole")
        assert result(outcome.folder) == result(whole)
        assert read_record(outcome.folder)["sessions"][0]["threads"] == 1
    assert "has no label 17" in (outcomes[1].error or "")
    assert "is in use by another process" in (outcomes[3].error or "")
    assert outcomes[4].error
    for outcome in (outcomes[1], outcomes[3], outcomes[4]):
        assert outcome.folder is None
    assert [e.outcome for e in events if e.outcome] == list(
        {id(e.outcome): e.outcome for e in events if e.outcome}.values()
    )
    assert len([e for e in events if e.outcome]) == 5
    rows = [e for e in events if e.recipe == good and e.progress and e.progress.row]
    assert [e.progress.row["step"] for e in rows if e.progress and e.progress.row] == [0, 3, 6]
    assert children() == set()


class StopError(Exception):
    """What a caller may raise at any time."""


def test_a_killed_worker_costs_its_run_alone_and_an_exception_stops_the_pool(
    tiny: Make, tmp_path: Path, result: Any
) -> None:
    killed, good, stopped = tiny(epochs=2000), tiny(seed=1), tiny(epochs=2000, seed=2)
    before = children()
    outcomes: list[Outcome] = []

    def tell(event: Event) -> None:
        if event.outcome:
            outcomes.append(event.outcome)
        at_work = event.progress is not None and event.progress.step > 0
        if at_work and event.recipe == killed:
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)
        elif at_work and event.recipe == stopped:
            for pid in children() - before:  # as if in a step of minutes
                os.kill(pid, signal.SIGSTOP)
            raise StopError

    with pytest.raises(StopError):
        run_all([killed, good, stopped], tmp_path, workers=1, on_progress=tell)
    assert children() == before
    assert [outcome.recipe for outcome in outcomes] == [killed, good]
    assert [outcome.error for outcome in outcomes] == [
        "its process was killed by SIGKILL (out of memory?): run the same again to resume",
        None,
    ]
    assert outcomes[0].folder is None
    assert outcomes[1].folder is not None
    assert result(outcomes[1].folder) == result(run(good, tmp_path / "whole"))


INTERRUPTED = """
import sys, json, time
from lowland.train import Recipe, run_all
recipe = Recipe.from_mapping(json.loads(sys.argv[1]))
workers = int(sys.argv[3])
recipes = [recipe.with_settings([f"seed={seed}"]) for seed in range(workers)]
started = set()
def tell(event):
    if event.progress and event.progress.step and event.recipe not in started:
        started.add(event.recipe)
        print("started", flush=True)
try:
    run_all(recipes, sys.argv[2], workers=workers, on_progress=tell)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def start(recipe: Recipe, root: Path, workers: int) -> subprocess.Popen[str]:
    """A process, leader of its own group as in a terminal, with so many runs at work."""
    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, json.dumps(recipe.to_dict()), str(root), f"{workers}"],
        env={**os.environ, "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # shells have jobs in the background ignore Ctrl-C, and their children too
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(workers)] == ["started\n"] * workers
    return process


def workers_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all processes end within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("how", "count"), [("Ctrl-C", 2), pytest.param("killed", 1, marks=pytest.mark.slow)]
)
def test_stopping_the_pool_stops_its_workers_and_every_run_resumes(
    tiny: Make, tmp_path: Path, how: str, count: int
) -> None:
    recipe = tiny(epochs=3000, evaluations=1)
    process = start(recipe, tmp_path, count)
    workers = workers_of(process.pid)
    assert len(workers) == count
    assert all(os.getpgid(pid) == pid for pid in workers)  # Ctrl-C does not reach them
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    out, err = process.communicate(timeout=10)
    assert gone(workers, 5)
    assert (out, err) == ("stopped\n" if how == "Ctrl-C" else "", "")
    for folder in tmp_path.iterdir():
        assert read_record(folder)["status"] == "running"
        with locked(folder):
            assert (folder / "state.json").exists()


BUSY = """
import time

def busy(*, seed, rho):
    time.sleep(60)  # a training that has nothing to say
    yield {"value": 1.0}
"""
TERMINATED = """
import sys
from lowland.train import Experiment, run_all
tell = lambda event: print("started", flush=True)
run_all([Experiment(function="busy_rows:busy")], sys.argv[1], workers=1, on_progress=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_says_nothing_ends_with_its_parent(tmp_path: Path, how: int) -> None:
    """And leaves its directory to the next call."""
    (tmp_path / "busy_rows.py").write_text(BUSY)
    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{tmp_path}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    workers = workers_of(process.pid)
    assert len(workers) == 1
    process.send_signal(how)
    process.communicate(timeout=10)
    assert gone(workers, 2)
    (folder,) = (tmp_path / "runs").iterdir()
    with locked(folder):
        assert read_record(folder)["status"] == "running"


def test_the_end_of_a_lifeline_is_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from lowland.train import worker

    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    theirs, ours = os.pipe()
    thread = threading.Thread(target=worker.die_with, args=(theirs,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive(), "as long as the other end is"
    os.close(ours)
    thread.join(5)
    assert codes == [1]
    os.close(theirs)


def test_a_run_that_breaks_shows_where(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowland.train import worker

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug\nof ours")

    monkeypatch.setattr(worker, "run_any", broken)
    task = worker.Task(recipe=tiny(), root=tmp_path, checkpoint_seconds=30.0)
    outcome = worker.attempt(task, lambda news: None)
    assert outcome == Outcome(
        recipe=tiny(), error="RuntimeError: a bug of ours", detail=outcome.detail
    )
    assert "in broken" in (outcome.detail or "")


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(tiny: Make, tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=f"workers must be 1 or more, not {workers}"):
        run_all([tiny()], tmp_path, workers=workers)


def test_no_recipes_are_no_work(tmp_path: Path) -> None:
    assert run_all([], tmp_path, workers=2) == []
    assert list(tmp_path.iterdir()) == []
