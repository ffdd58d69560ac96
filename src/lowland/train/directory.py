"""A run directory: what a run leaves on disk, written so that it is consistent at every moment.

    run.json               what was asked, on which data, by which code; status running or finished
    history.parquet        one row per evaluation
    measured.parquet       one row per measurement of the recipe's own; absent if it asks for none
    weights.safetensors    the final parameters and buffers; an experiment has none
    state.json, state-STEP.safetensors    only while running: all that is needed to go on
    tracked.json           only while running, and with loggers: the last step that they have

``run.json`` comes first with status ``running`` and is replaced last with status ``finished``,
when it also gets the SHA-256 of the other files. ``history.parquet`` is made from the state, so
that a kill between the two does no harm. The caller holds the directory's lock throughout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.files import write_atomically
from lowland.train.history import Row, write_history
from lowland.train.sealed import read_sealed, refused, write_sealed
from lowland.train.state import (
    STATE,
    State,
    discard_state,
    load_state,
    save_state,
    tensor_bytes,
)

RUN = "run.json"
HISTORY = "history.parquet"
MEASURED = "measured.parquet"
WEIGHTS = "weights.safetensors"
TRACKED = "tracked.json"


def begin(folder: Path, record: Mapping[str, Any]) -> State | None:
    """Make `folder` the directory of the run that `record` describes, or find it there.

    Args:
        folder: the run directory, locked by the caller.
        record: what ``run.json`` holds, with its name under ``run``.

    Returns:
        The state to go on from, or None for a start from nothing.

    Raises:
        InputError: the folder holds something else, or a damaged run; nothing is changed then.
    """
    if (folder / RUN).exists():
        read_record(folder, record["run"])
    else:
        _refuse_foreign(folder)
    state = load_state(folder, record["run"])
    with clear_errors(folder):
        for half_written in folder.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink()
        if not (folder / RUN).exists():
            write_sealed(folder / RUN, "run", {"status": "running", **record})
    return state


def commit(folder: Path, run: str, state: State) -> None:
    """Make `state` what a killed run goes on from, and show its history."""
    with clear_errors(folder):
        save_state(folder, run, state)
        write_history(folder / HISTORY, state.rows)
        if state.measured:
            write_history(folder / MEASURED, state.measured)


def finish(folder: Path, state: State, **facts: Any) -> None:
    """Write the final weights and history, then commit the run as finished.

    After that `discard` may drop what resumes it.

    Args:
        folder: the run directory.
        state: the state at the end.
        facts: what else ``run.json`` shall hold from now on.
    """
    weights = tensor_bytes(state.model)
    with clear_errors(folder):
        write_atomically(folder / WEIGHTS, lambda file: file.write(weights))
        if state.measured:
            write_history(folder / MEASURED, state.measured)
    beside = (WEIGHTS, MEASURED) if state.measured else (WEIGHTS,)
    end = {name: getattr(state, name) for name in ("seconds", "sessions", "definitions")}
    complete(folder, state.rows, beside=beside, **facts, **end)


def complete(
    folder: Path, rows: Sequence[Row], *, beside: Sequence[str] = (), **facts: Any
) -> None:
    """Write the history, then commit the run as finished.

    Args:
        folder: the run directory.
        rows: the whole history.
        beside: files that belong to the run and are there already.
        facts: what else ``run.json`` shall hold from now on.
    """
    record = read_record(folder)
    with clear_errors(folder):
        write_history(folder / HISTORY, rows)
        files = {name: _sha256(folder / name) for name in (*beside, HISTORY)}
        finished = {**record, "status": "finished", **facts, "files": files}
        write_sealed(folder / RUN, "run", finished)


def is_finished(folder: Path, run: str) -> bool:
    """Whether `folder` holds this run, finished and whole. Changes nothing.

    The files are compared with the SHA-256 that ``run.json`` has of them (milliseconds).

    Raises:
        InputError: ``run.json`` or a file of the finished run is damaged, or of another run.
    """
    if not (folder / RUN).exists():
        return False
    record = read_record(folder, run)
    if record["status"] != "finished":
        return False
    for name, digest in record["files"].items():
        if _sha256(folder / name) != digest:
            raise refused(folder / name, f"does not have the SHA-256 that {RUN} records")
    return True


def leftovers(folder: Path) -> bool:
    """Whether a state is there still; a kill just after `finish` leaves one."""
    return any(folder.glob("state*")) or (folder / TRACKED).exists()


def discard(folder: Path) -> None:
    """Remove the state of a finished run."""
    with clear_errors(folder):
        discard_state(folder)
        (folder / TRACKED).unlink(missing_ok=True)


def read_record(folder: Path, run: str | None = None) -> dict[str, Any]:
    """``run.json`` of a run directory, checked.

    Raises:
        InputError: it is missing, damaged, foreign, of another version, or not of run `run`.
    """
    return read_sealed(folder / RUN, "run", run)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Final parameters and buffers by name.

    Raises:
        InputError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise refused(path, f"cannot be read ({error})") from None


@contextlib.contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "make the folder writable"
        raise InputError(
            f"{folder}: {reason}; the last good state is kept: {remedy}, then run the same again"
        ) from error


def _refuse_foreign(folder: Path) -> None:
    known = {HISTORY, MEASURED, WEIGHTS, STATE, TRACKED, ".lock"}
    for path in sorted(folder.iterdir()):
        ours = path.name in known or path.match("state-*.safetensors") or path.match(".*.tmp")
        if not ours:
            raise refused(path, f"stands in a folder without {RUN}, which is no run directory")
        if path.name not in (".lock",) and not path.match(".*.tmp"):
            raise refused(folder / RUN, f"is missing beside {path.name}")


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}") from None
