"""Runs on a real Ray cluster on this machine: the same directories as without it."""

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
    Experiment,
    RayCluster,
    Recipe,
    Watch,
    read_history,
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # nodes find made_experiments
        with cluster(2) as made:
            yield made.address


def test_runs_end_as_they_do_locally(
    tiny: Make, tmp_path: Path, result: Any, one_node: str, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    capfd.readouterr()
    experiment = Experiment(function="made_experiments:walk", seed=1)
    recipes = [tiny(), tiny(labels=[0, 17]), tiny(), experiment]
    launcher = RayCluster(address=one_node, workers=1)
    outcomes = launcher.launch(recipes, tmp_path / "ray", Watch(on_event=events.append))
    assert capfd.readouterr() == ("", "")
    assert outcomes[0] is outcomes[2]
    assert outcomes[0].folder is not None
    assert result(outcomes[0].folder) == result(run(tiny(), tmp_path / "local"))
    assert "has no label 17" in (outcomes[1].error or "")
    rows = [e.progress.row for e in events if e.progress and e.progress.row]
    assert outcomes[3].error is None
    assert outcomes[3].folder is not None
    assert [row["step"] for row in rows] == [0, 3, 6, 0, 1, 2]
    alone = experiment.run(tmp_path / "local")
    files = [folder / "history.parquet" for folder in (outcomes[3].folder, alone)]
    assert read_history(files[0]) == read_history(files[1])
    made = {folder.name for folder in (outcomes[0].folder, outcomes[3].folder)}
    assert {path.name for path in (tmp_path / "ray").iterdir()} == made


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
