"""Exceptions, full disks, damaged and foreign directories, and directories in use."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from lowland import models
from lowland.core.errors import InputError
from lowland.core.files import locked
from lowland.train import Progress, Recipe, read_record, read_weights, run
from lowland.train.pool import ONE_THREAD
from lowland.train.sealed import write_sealed

Make = Callable[..., Recipe]


class StopError(Exception):
    """What a caller may raise at any time."""


def stop_at(step: int) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        if progress.row is not None and progress.step >= step:
            raise StopError

    return tell


def stopped(recipe: Recipe, root: Path, step: int = 3) -> Path:
    """The directory of a run that was stopped after the evaluation at `step`."""
    with pytest.raises(StopError):
        run(recipe, root, on_progress=stop_at(step))
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("step", [0, 3, 6])
def test_an_exception_from_the_caller_leaves_a_run_to_resume(
    tiny: Make, tmp_path: Path, result: Any, step: int
) -> None:
    folder = stopped(tiny(), tmp_path / "stopped", step)
    assert read_record(folder)["status"] == "running"
    assert run(tiny(), tmp_path / "stopped") == folder
    assert result(folder) == result(run(tiny(), tmp_path / "whole"))
    steps = [session["step"] for session in read_record(folder)["sessions"]]
    assert steps == [0, step]


def test_a_resumed_run_repeats_no_update(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowland.train.trainer import Trainer

    stopped(tiny(), tmp_path)
    done: list[int] = []
    update = Trainer.update

    def counted(self: Trainer, step: int, *batch: Any) -> Any:
        done.append(step)
        return update(self, step, *batch)

    monkeypatch.setattr(Trainer, "update", counted)
    run(tiny(), tmp_path)
    assert done == [3, 4, 5]


class Dropped(nn.Sequential):
    """Draws from torch's global generator in every forward pass in training."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, _: int) -> None:
        super().__init__()
        self.add_module("block1", nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU()))
        self.add_module("block2", nn.Dropout(0.5))
        self.add_module("head", nn.Linear(width, classes))


def test_dropout_resumes_exactly_though_no_generator_is_kept(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    architecture = models.Architecture(Dropped, width=8, smallest=8)
    monkeypatch.setitem(models.MODELS, "dropped", architecture)
    recipe = tiny(model="dropped")
    folder = stopped(recipe, tmp_path / "stopped")
    torch.manual_seed(99)
    run(recipe, tmp_path / "stopped")
    whole = run(recipe, tmp_path / "whole")
    assert result(folder) == result(whole)
    plain = run(tiny(model="mlp"), tmp_path / "whole")
    assert not torch.equal(read_weights(whole)["head.weight"], read_weights(plain)["head.weight"])


class FullDisk:
    """A disk on which the n-th flush to disk, and every later one, finds no space."""

    real: ClassVar[Callable[[int], None]] = staticmethod(os.fsync)

    def __init__(self, flushes: int) -> None:
        self.left = flushes

    def fsync(self, descriptor: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        FullDisk.real(descriptor)


@pytest.mark.parametrize("flushes", [0, 2, 4, 6, 9, 10, 14, 20, 22, 24])
def test_a_full_disk_is_one_clear_error_and_costs_nothing(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Any, flushes: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(flushes).fsync)
        with pytest.raises(InputError) as caught:
            run(tiny(), tmp_path / "full")
    message = str(caught.value)
    assert "No space left on device; the last good state is kept: free some space" in message
    assert "\n" not in message
    (folder,) = (tmp_path / "full").iterdir()
    assert str(folder) in message
    assert [path for path in folder.iterdir() if path.name.endswith(".tmp")] == []
    assert run(tiny(), tmp_path / "full") == folder
    assert result(folder) == result(run(tiny(), tmp_path / "whole"))


def test_the_disk_error_comes_from_the_last_flush_too(tiny: Make, tmp_path: Path) -> None:
    """The cases above cover the whole run: one more flush than they deny is enough for it."""
    disk = FullDisk(1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        run(tiny(), tmp_path)
    assert 24 < 1000 - disk.left <= 28


SMALL_DISK = """
import sys, json, shutil
from pathlib import Path
from lowland.core.errors import InputError
from lowland.train import Recipe, run
recipe = Recipe.from_mapping(json.loads(sys.argv[1]))
for room in (8_000, 24_000):
    root = Path(sys.argv[2]) / str(room)
    root.mkdir()
    ballast = root / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(root).free - room))
    try:
        run(recipe, root / "runs")
    except InputError as error:
        print(error)
        print("states:", len(list((root / "runs").glob("*/state.json"))))
    ballast.unlink()
    print(run(recipe, root / "runs").name)
"""


@pytest.mark.slow
def test_a_really_full_disk(tiny: Make, tmp_path: Path) -> None:
    """On a file system of its own in memory, where this system lets a user mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], check=False).returncode:
        pytest.skip("this system lets no user mount a file system, so none can be filled")
    program = [sys.executable, "-c", SMALL_DISK, json.dumps(tiny().to_dict()), str(disk)]
    package = Path(sys.modules["lowland"].__file__ or "").parents[1]
    done = subprocess.run(
        [*unshare, f'{mount} && exec "$@"', "sh", *program],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, none, name, second, one, same = done.stdout.splitlines()
    for message in (first, second):
        assert "No space left on device; the last good state is kept" in message
    assert (none, one) == ("states: 0", "states: 1")
    assert name == same == run(tiny(), tmp_path / "whole").name


def test_a_directory_in_use_is_refused(tiny: Make, tmp_path: Path) -> None:
    folder = stopped(tiny(), tmp_path)
    before = contents(folder)
    with locked(folder), pytest.raises(InputError, match="is in use by another process"):
        run(tiny(), tmp_path)
    assert contents(folder) == before


def test_a_run_at_work_keeps_others_out(tiny: Make, tmp_path: Path) -> None:
    def intrude(progress: Progress) -> None:
        if not progress.finished:
            with pytest.raises(InputError, match="is in use by another process"):
                run(tiny(), tmp_path)

    run(tiny(), tmp_path, on_progress=intrude)


def test_a_root_that_is_a_file_is_named(tiny: Make, tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("mine")
    with pytest.raises(InputError, match=r"file/\w+: (File exists|Not a directory)"):
        run(tiny(), root)
    assert root.read_text() == "mine"


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def edit(old: str, new: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def of_another_run(path: Path) -> None:
    write_sealed(path, "run", {"run": "another", "status": "running"})


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("run.json", shorten, "run.json is not valid JSON"),
    ("run.json", lambda path: path.write_text("[1, 2]"), "run.json is not a run of lowland"),
    ("run.json", edit("lowland-run", "other"), "run.json is not a run of lowland"),
    ("run.json", edit('"version": 1', '"version": 9'), "has format version 9, this is 1"),
    ("run.json", edit('"rho": 0.1', '"rho": 0.2'), "does not have the SHA-256 that it records"),
    ("run.json", of_another_run, "run.json belongs to run another, not"),
    ("run.json", Path.unlink, "run.json is missing beside"),
]
OF_A_RUNNING_ONE = [
    ("state.json", shorten, "state.json is not valid JSON"),
    ("state-3.safetensors", shorten, "state-3.safetensors does not have the SHA-256"),
    ("state-3.safetensors", Path.unlink, "state-3.safetensors cannot be read: No such file"),
]
OF_A_FINISHED_ONE = [
    ("weights.safetensors", shorten, "weights.safetensors does not have the SHA-256"),
    ("weights.safetensors", Path.unlink, "weights.safetensors cannot be read: No such file"),
    ("history.parquet", shorten, "history.parquet does not have the SHA-256"),
]


@pytest.fixture(scope="module")
def examples(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Roots with one directory: of a stopped run (False) and of a finished one (True)."""
    roots = {done: tmp_path_factory.mktemp("runs") for done in (False, True)}
    stopped(tiny(), roots[False])
    run(tiny(), roots[True])
    return roots


@pytest.mark.parametrize(
    ("finished", "name", "damage", "message"),
    [(done, *damage) for done in (False, True) for damage in DAMAGES]
    + [(False, *damage) for damage in OF_A_RUNNING_ONE]
    + [(True, *damage) for damage in OF_A_FINISHED_ONE],
)
def test_damage_is_named_and_nothing_is_overwritten(
    tiny: Make,
    tmp_path: Path,
    examples: dict[bool, Path],
    finished: bool,
    name: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(examples[finished], root)
    (folder,) = root.iterdir()
    damage(folder / name)
    before = contents(folder)
    with pytest.raises(InputError) as caught:
        run(tiny(), root)
    assert message in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_folder_of_something_else_is_refused(
    tiny: Make, tmp_path: Path, examples: dict[bool, Path]
) -> None:
    (original,) = examples[True].iterdir()
    folder = tmp_path / original.name
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis.tex stands in a folder without run.json"):
        run(tiny(), tmp_path)
    assert {path.name for path in folder.iterdir()} == {"thesis.tex", ".lock"}


def test_what_a_kill_left_behind_is_removed(
    tiny: Make, tmp_path: Path, examples: dict[bool, Path]
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(examples[True], root)
    (folder,) = root.iterdir()
    (folder / "state-6.safetensors").write_bytes(b"orphan")
    run(tiny(), root)
    assert not (folder / "state-6.safetensors").exists()
    stamp = folder.stat().st_mtime_ns
    run(tiny(), root)
    assert folder.stat().st_mtime_ns == stamp


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"weights.safetensors cannot be read"):
        read_weights(tmp_path)
