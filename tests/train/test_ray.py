"""Runs on a real Ray cluster on this machine: the same directories, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lowland.core.errors import InputError
from lowland.train import (
    Event,
    Local,
    Outcome,
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

from ray_cluster import cluster  # beside this file

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


def same(outcomes: list[Outcome], root: Path, result: Any) -> None:
    """The outcomes are what the local launcher makes, bit for bit."""
    recipes = [outcome.recipe for outcome in outcomes]
    expected = Local(workers=2).launch(recipes, root, Watch())
    for here, there in zip(outcomes, expected, strict=True):
        assert here.error is None
        assert here.folder is not None
        assert there.folder is not None
        assert here.folder.name == there.folder.name
        assert result(here.folder) == result(there.folder)
        records = [read_record(folder) for folder in (here.folder, there.folder)]
        for record in records:  # what tells time and process
            del record["seconds"], record["sessions"], record["files"]["history.parquet"]
        assert records[0] == records[1]


def sessions(outcome: Outcome) -> list[int]:
    """At which step each process that worked on a run began."""
    assert outcome.folder is not None
    return [session["step"] for session in read_record(outcome.folder)["sessions"]]


def process_of(event: Event) -> int:
    """The process that a note about a death names."""
    return int((event.note or "").partition("(process ")[2].partition(")")[0])


def test_runs_end_as_they_do_locally(
    tiny: Make, tmp_path: Path, result: Any, one_node: str, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    capfd.readouterr()
    recipes = [tiny(), tiny(labels=[0, 17]), tiny()]
    launcher = RayCluster(address=one_node, workers=1)
    outcomes = launcher.launch(recipes, tmp_path / "ray", Watch(on_event=events.append))
    assert capfd.readouterr() == ("", "")
    assert outcomes[0] is outcomes[2]
    assert outcomes[0].folder is not None
    assert result(outcomes[0].folder) == result(run(tiny(), tmp_path / "local"))
    assert "has no label 17" in (outcomes[1].error or "")
    rows = [e.progress.row for e in events if e.progress and e.progress.row]
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert [path.name for path in (tmp_path / "ray").iterdir()] == [outcomes[0].folder.name]


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


def writers(root: Path) -> set[int]:
    """Processes other than this one that hold the lock of a run directory under `root`."""
    locks = {path.stat().st_ino for path in root.glob("*/.lock")}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    found = {int(f[4]) for f in lines if f[1] == "FLOCK" and int(f[5].split(":")[2]) in locks}
    return found - {os.getpid()}


def gone(pids: set[int], seconds: float = 20.0) -> bool:
    """Whether all processes end within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


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


def test_a_cluster_that_does_not_fit_is_refused_before_any_run(
    tiny: Make, tmp_path: Path, one_node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected once for all of these."""
    import ray

    from lowland.train import ray_launcher, ray_sweep

    def refusal(launcher: RayCluster, *recipes: Recipe) -> str:
        with pytest.raises(InputError) as caught:
            launcher.launch(recipes or [tiny()], tmp_path / "runs", Watch())
        return str(caught.value)

    ray.init(address=one_node, log_to_driver=False, logging_level="ERROR")
    try:
        assert "no node of the Ray cluster has 64 cores for a run" in refusal(
            RayCluster(cpus_per_run=64)
        )
        assert "has 1 cores and 1 GPUs for a run" in refusal(RayCluster(gpus_per_run=1))
        assert "device cuda needs a GPU for each run: --gpus-per-run 1" in refusal(
            RayCluster(), tiny(device="cuda")
        )
        with monkeypatch.context() as patch:
            patch.setattr(ray_sweep, "code", lambda: "another")
            assert "has another version of lowland or torch than this machine" in refusal(
                RayCluster()
            )
        offered = ray_launcher.offered

        @contextlib.contextmanager
        def elsewhere(*arguments: Any) -> Iterator[Any]:
            """A token that the node does not find, as on a disk of its own."""
            with offered(*arguments) as terms:
                yield dataclasses.replace(terms, token=tmp_path / "nowhere" / "token")

        with monkeypatch.context() as patch:
            patch.setattr(ray_launcher, "offered", elsewhere)
            assert refusal(RayCluster()).endswith(
                "(No such file or directory): put --out on a file system that all nodes share"
            )
        assert ray.is_initialized()  # a connection that was there stays
    finally:
        ray.shutdown()
    assert list((tmp_path / "runs").iterdir()) == []


WITHOUT_LOWLAND = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from lowland.core.errors import InputError
from lowland.train import RayCluster, Recipe, Watch
try:
    RayCluster(address=sys.argv[2]).launch([Recipe()], Path(sys.argv[3]), Watch())
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_nodes_without_lowland_are_named(tmp_path: Path) -> None:
    """The cluster is started without lowland on its path; the driver has it."""
    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    shadow = tmp_path / "shadow" / "lowland"  # stands before an installed one, and is none
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ImportError('no lowland here')\n")
    driver = {**os.environ, "RAY_AUTH_MODE": "disabled"}  # a cluster of this machine alone
    nodes = {**driver, "PYTHONPATH": str(shadow.parent)}
    scripts = Path(sys.executable).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = tempfile.mkdtemp(prefix="lowland-ray-")  # sockets need a short path
    start = [scripts / "ray", "start", "--head", f"--port={port}", "--num-cpus=1", "--block"]
    options = ["--include-dashboard=false", f"--temp-dir={place}"]
    head = subprocess.Popen(
        [*start, *options, "--object-store-memory=83886080"],
        env=nodes,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"127.0.0.1:{port}"
        limit = time.monotonic() + 60
        said = ""
        while time.monotonic() < limit and "no usable lowland" not in said:
            done = subprocess.run(
                [sys.executable, "-c", WITHOUT_LOWLAND, package, address, tmp_path / "runs"],
                env=driver,
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stdout
            assert head.poll() is None
        assert "has no usable lowland (" in said
        assert said.strip().endswith("install the same version on every node")
        assert said.count("\n") == 1
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=30)
        shutil.rmtree(place, ignore_errors=True)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be 1 or more, not 0"),
        ({"cpus_per_run": 0}, "cpus per run must be above 0, not 0"),
        ({"cpus_per_run": float("nan")}, "cpus per run must be above 0, not nan"),
        ({"gpus_per_run": -1}, "gpus per run must be 0 or more, not -1"),
        ({"retries": -1}, "retries must be 0 or more, not -1"),
        ({"address": "here"}, "address must be auto, HOST:PORT or ray://HOST:PORT, not 'here'"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster at 127.0.0.1:1 ("),
        ({"address": "ray://127.0.0.1:1"}, "start one with `ray start --head`"),
    ],
)
def test_bad_options_are_refused(
    tiny: Make, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        RayCluster(**options).launch([tiny()], tmp_path, Watch())
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_ray_that_is_not_installed_is_named(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    with pytest.raises(InputError, match=r"launcher ray needs ray: pip install 'lowland\[ray\]'"):
        RayCluster().launch([tiny()], tmp_path, Watch())


def test_no_recipes_are_no_work(tmp_path: Path) -> None:
    assert RayCluster().launch([], tmp_path, Watch()) == []
    assert list(tmp_path.iterdir()) == []
