"""One process writes a run directory, and knows when it is no longer the one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lowland.core.errors import InputError
from lowland.core.files import locked
from lowland.train import Progress, Recipe, run
from lowland.train.hold import held

Make = Callable[..., Recipe]


def test_a_directory_in_use_is_waited_for(tmp_path: Path) -> None:
    folder, entered = tmp_path / "run", threading.Event()
    release = threading.Event()

    def hold() -> None:
        with locked(folder):
            entered.set()
            release.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    assert entered.wait(20)
    begun = time.monotonic()
    with pytest.raises(InputError, match="is in use by another process"), held(folder, 0.5):
        raise AssertionError("it is not free")
    assert time.monotonic() - begun >= 0.5
    threading.Timer(0.3, release.set).start()
    with held(folder, 20.0):
        pass
    other.join()


def test_a_run_that_was_cut_off_and_replaced_writes_nothing_more(
    tiny: Make, tmp_path: Path
) -> None:
    """As after a network's silence, in which the file server gave its lock to another process."""
    recipe = tiny(epochs=4, evaluations=4)
    states: list[bytes] = []

    def taken_over(progress: Progress) -> None:
        if progress.row is not None and progress.step == 3:
            (folder,) = tmp_path.iterdir()
            (folder / ".lock").write_text("another")
            states.append((folder / "state.json").read_bytes())

    with pytest.raises(InputError, match="was taken over by another process"):
        run(recipe, tmp_path, on_progress=taken_over)
    (folder,) = tmp_path.iterdir()
    assert states == [(folder / "state.json").read_bytes()]
    run(recipe, tmp_path)  # whoever comes next goes on
