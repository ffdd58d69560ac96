"""Who may write a run directory: one process at a time, and it knows when it is not the one.

The lock (`lowland.core.files.locked`) keeps others out. A process that a network cut off may lose
it without noticing: an NFS server gives the lock of a silent client away. So whoever has the lock
also leaves its name in it, and looks whether that is still there before each commit.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from lowland.core.errors import InputError
from lowland.core.files import locked
from lowland.train import directory

POLL_SECONDS = 0.2


class Hold:
    """A run directory that this process has locked."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._name = folder, ""

    def claim(self) -> None:
        """Leave a name that nobody else has; the first change to the directory."""
        self._name = uuid.uuid4().hex
        (self._folder / ".lock").write_text(self._name)

    def check(self) -> None:
        """Refuse to go on where another process has claimed the directory since.

        Raises:
            InputError: it has; nothing may be written any more.
        """
        if (self._folder / ".lock").read_text() != self._name:
            raise InputError(
                f"{self._folder} was taken over by another process while this one was cut off: "
                "this one has stopped"
            )


@contextlib.contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[Hold]:
    """Lock a run directory, waiting at most `patience` seconds for whoever has it.

    Raises:
        InputError: it is still in use after that.
    """
    limit = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except InputError:  # in use; nothing else is one here
                if time.monotonic() >= limit:
                    raise
            time.sleep(POLL_SECONDS)
        yield Hold(folder)


def once(folder: Path, run: str, work: Callable[[Hold], object], *, patience: float = 0.0) -> None:
    """Do the work of a run unless its directory is finished, under its lock.

    Args:
        folder: the run directory; a finished one without leftovers is not touched.
        run: name of the run.
        work: leaves the directory finished.
        patience: seconds to wait for a directory that is in use.

    Raises:
        InputError: it is in use, damaged, of another run, or cannot be written.
    """
    if directory.is_finished(folder, run) and not directory.leftovers(folder):
        return
    with contextlib.ExitStack() as stack:
        with directory.clear_errors(folder):
            hold = stack.enter_context(held(folder, patience))
        if not directory.is_finished(folder, run):
            work(hold)
        directory.discard(folder)
