"""Workers, nodes and drivers die on a real Ray cluster; the runs end as if nothing had."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lowland.train import (
    Event,
    RayCluster,
    Recipe,
    Tracking,
    Watch,
    read_record,
    run,
)
from lowland.train.ray_launcher import QUIET

os.environ.update(QUIET)  # read when ray is imported
pytest.importorskip("ray", reason="needs ray: pip install 'lowland[ray]'")

from ray_cluster import cluster, gone, process_of, same, sessions, writers  # beside this file

Make = Callable[..., Recipe]
# Ray leaves sockets and processes to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
]


@pytest.fixture(scope="module")
def one_node() -> Iterator[str]:
    """The address of a cluster with room for two runs."""
    with cluster(2) as made:
        yield made.address


@pytest.mark.slow
def test_runs_end_as_they_do_locally_though_a_worker_is_killed(
    tiny: Make, tmp_path: Path, result: Any, one_node: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run whose worker is killed, one that cannot be, one asked for twice, all logged."""
    long, bad, short = tiny(epochs=600), tiny(labels=[0, 17]), tiny(seed=1)
    events: list[Event] = []
    killed: list[int] = []
    capfd.readouterr()

    def tell(event: Event) -> None:
        events.append(event)
        at_work = event.progress is not None and event.progress.step > 300
        if at_work and event.recipe == long and not killed:
            (pid,) = writers(tmp_path / "ray")
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    watch = Watch(
        on_event=tell,
        checkpoint_seconds=0.1,
        loggers=Tracking(tracker="csv", place=str(tmp_path / "logs")),
        log_every=1,
    )
    outcomes = RayCluster(address=one_node).launch(
        [short, long, bad, short], tmp_path / "ray", watch
    )
    assert capfd.readouterr() == ("", "")
    assert "has no label 17" in (outcomes[2].error or "")
    assert outcomes[0] is outcomes[3]
    same([outcomes[0], outcomes[1]], tmp_path / "local", result)
    first, again = sessions(outcomes[1])
    assert first == 0
    assert again > 0  # from its state, not from nothing
    (note,) = [event for event in events if event.note]
    assert note.recipe == long
    assert process_of(note) == killed[0]
    assert "it goes on from its last state, retry 1 of 3" in (note.note or "")
    ended = [event.recipe for event in events if event.outcome]
    assert sorted(ended, key=[short, long, bad].index) == [short, long, bad]
    rows = [e.progress.row for e in events if e.recipe == short and e.progress and e.progress.row]
    assert [row["step"] for row in rows] == [0, 3, 6]
    (log,) = (tmp_path / "logs").glob(f"*-{(outcomes[1].folder or Path()).name[:8]}/metrics.csv")
    steps = [int(line.partition(",")[0]) for line in log.read_text().splitlines()[1:]]
    assert steps == list(range(1801))  # each once
    left = {path.name for path in (tmp_path / "ray").iterdir()}
    assert not {name for name in left if name.startswith(".")}  # the token is gone


class StopError(Exception):
    """What a caller may raise at any time; Ctrl-C takes the same way."""


@pytest.mark.slow
def test_stopping_stops_the_workers_and_leaves_runs_to_resume(
    tiny: Make, tmp_path: Path, result: Any, one_node: str
) -> None:
    recipe = tiny(epochs=4000, evaluations=1)
    working: set[int] = set()

    def tell(event: Event) -> None:
        if event.progress is not None and event.progress.step > 0:
            working.update(writers(tmp_path / "ray"))
            raise StopError

    with pytest.raises(StopError):
        RayCluster(address=one_node).launch([recipe], tmp_path / "ray", Watch(on_event=tell))
    assert working
    assert gone(working)
    (folder,) = (tmp_path / "ray").iterdir()
    assert read_record(folder)["status"] == "running"
    assert (folder / "state.json").exists()


@pytest.mark.slow
def test_retries_are_bounded_and_the_last_word_says_how_it_went(
    tiny: Make, tmp_path: Path, one_node: str
) -> None:
    notes: list[str] = []

    def tell(event: Event) -> None:
        notes.extend([event.note] if event.note else [])
        if event.progress is not None and event.progress.step > 0:
            for pid in writers(tmp_path):
                os.kill(pid, signal.SIGKILL)

    launcher = RayCluster(address=one_node, retries=1)
    (outcome,) = launcher.launch([tiny(epochs=4000)], tmp_path, Watch(on_event=tell))
    assert outcome.folder is None
    assert len(notes) == 1
    error = outcome.error or ""
    assert error.startswith("sam-rho0.1-seed0 at step ")
    assert error.endswith("2 times in all: run the same again to resume")
    assert "\n" not in error


@pytest.mark.slow
def test_a_node_dies_in_the_middle_of_its_runs(
    tiny: Make, tmp_path: Path, result: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    recipes = [tiny(epochs=1000, seed=seed) for seed in range(3)]
    reached: dict[Recipe, int] = {}
    notes: list[Event] = []
    killed: list[dict[Recipe, int]] = []
    with cluster(1, 1) as made:
        (node,) = made.worker_nodes
        doomed = processes_of(node)
        capfd.readouterr()

        def tell(event: Event) -> None:
            if event.progress is not None:
                reached[event.recipe] = event.progress.step
            notes.extend([event] if event.note else [])
            at_work = [step for recipe, step in reached.items() if recipe in recipes[:2]]
            if not killed and len(at_work) == 2 and min(at_work) > 300:
                killed.append(dict(reached))
                doomed.update(processes_of(node))
                made.remove_node(node, allow_graceful=False)

        watch = Watch(on_event=tell, checkpoint_seconds=0.2)
        outcomes = RayCluster(address=made.address).launch(recipes, tmp_path / "ray", watch)
        assert capfd.readouterr().err == ""
    assert killed
    begun = {outcome.recipe: sessions(outcome) for outcome in outcomes}
    (note,) = notes
    assert process_of(note) in doomed
    assert "node it was running on is dead" in (note.note or "")
    first, again = begun.pop(note.recipe)
    assert first == 0
    assert again > 100  # of 3,000: from its state, not from nothing
    assert list(begun.values()) == [[0], [0]]  # the others never noticed
    same(outcomes, tmp_path / "local", result)


def processes_of(node: Any) -> set[int]:
    """Every process below the node's raylet."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = entry.read_text().partition(" ")
            parents[int(pid)] = int(rest.rpartition(")")[2].split()[1])
    found = {info.process.pid for info in node.all_processes["raylet"]}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


DRIVER = """
import json, sys
from pathlib import Path
from lowland.train import RayCluster, Recipe, Watch
def tell(event):
    if event.progress and event.progress.step:
        print("at work", flush=True)
recipe = Recipe.from_mapping(json.loads(sys.argv[1]))
try:
    RayCluster().launch([recipe], Path(sys.argv[2]), Watch(on_event=tell, checkpoint_seconds=0.5))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_a_driver_that_ends_takes_its_own_cluster_along(
    tiny: Make, tmp_path: Path, result: Any, how: str
) -> None:
    import json

    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    recipe = tiny(epochs=1500, evaluations=1)
    arguments = [json.dumps(recipe.to_dict()), str(tmp_path / "ray")]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env={**os.environ, "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # shells have jobs in the background ignore Ctrl-C, and their children too
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    working = writers(tmp_path / "ray")
    assert working
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole group
    else:
        process.kill()
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.endswith("stopped\n") == (how == "Ctrl-C")
    assert gone(working)
    (folder,) = (path for path in (tmp_path / "ray").iterdir() if path.is_dir())
    assert read_record(folder)["status"] == "running"
    run(recipe, tmp_path / "ray")  # goes on, here and now
    assert result(folder) == result(run(recipe, tmp_path / "whole"))
