"""A run directory: what a run leaves on disk, written so that it is consistent at every moment.

    run.json               what was asked, on which data, by which code; status running or finished
    history.parquet        one row per evaluation
    weights.safetensors    the final parameters and buffers
    state.json, state-STEP.safetensors    only while running: all that is needed to go on

``run.json`` comes first with status ``running`` and is replaced last with status ``finished``,
when it also gets the SHA-256 of the other files. ``history.parquet`` is made from the state, so
that a kill between the two does no harm. The caller holds the directory's lock throughout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_atomically, write_json
from lowland.train.history import write_history
from lowland.train.state import STATE, State, discard, load_state, save_state, tensor_bytes

RUN = "run.json"
HISTORY = "history.parquet"
WEIGHTS = "weights.safetensors"
VERSION = 1


def begin(folder: Path, record: Mapping[str, Any]) -> State | None:
    """Make `folder` the directory of the run that `record` describes, or find it there.

    Args:
        folder: the run directory, locked by the caller.
        record: what ``run.json`` holds, with key ``id``.

    Returns:
        The state to go on from, or None for a start from nothing.

    Raises:
        InputError: the folder holds something else, or a damaged run; nothing is changed then.
    """
    if (folder / RUN).exists():
        read_record(folder, record["id"])
    else:
        _refuse_foreign(folder)
        write_json(
            folder / RUN,
            {"format": "lowland-run", "version": VERSION, "status": "running", **record},
        )
    state = load_state(folder, record["id"])
    # what a killed process left half-written
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    return state


def commit(folder: Path, run: str, state: State) -> None:
    """Make `state` what a killed run goes on from, and show its history."""
    save_state(folder, run, state)
    write_history(folder / HISTORY, state.rows)


def finish(folder: Path, state: State, **facts: Any) -> None:
    """Write the final weights, then commit the run as finished, then drop what resumes it.

    Args:
        folder: the run directory.
        state: the state at the end, already committed.
        facts: what else ``run.json`` shall hold from now on.
    """
    weights = tensor_bytes(state.model)
    write_atomically(folder / WEIGHTS, lambda file: file.write(weights))
    write_history(folder / HISTORY, state.rows)
    record = read_record(folder)
    write_json(
        folder / RUN,
        {
            **record,
            "status": "finished",
            **facts,
            "seconds": state.seconds,
            "sessions": state.sessions,
            "definitions": state.definitions,
            "files": {name: _sha256(folder / name) for name in (WEIGHTS, HISTORY)},
        },
    )
    discard(folder)


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
            raise _refused(folder / name, f"does not have the SHA-256 that {RUN} records")
    return True


def read_record(folder: Path, run: str | None = None) -> dict[str, Any]:
    """``run.json`` of a run directory, checked.

    Raises:
        InputError: it is missing, damaged, foreign, of another version, or not of run `run`.
    """
    path = folder / RUN
    record = read_json(path, "run record")
    if not isinstance(record, dict) or record.get("format") != "lowland-run":
        raise _refused(path, "is not a run record of lowland")
    if record.get("version") != VERSION:
        raise _refused(path, f"has format version {record.get('version')}, this is {VERSION}")
    if missing := [key for key in ("id", "status", "recipe", "data") if key not in record]:
        raise _refused(path, f"lacks {missing[0]!r}")
    if record["status"] == "finished" and "files" not in record:
        raise _refused(path, "lacks 'files'")
    if run is not None and record["id"] != run:
        raise _refused(path, f"belongs to run {record['id']}, not {run}")
    return record


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
        raise _refused(path, f"cannot be read ({error})") from None


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
    known = {HISTORY, WEIGHTS, STATE, ".lock"}
    for path in sorted(folder.iterdir()):
        ours = path.name in known or path.match("state-*.safetensors") or path.match(".*.tmp")
        if not ours:
            raise _refused(path, f"stands in a folder without {RUN}, which is no run directory")
        if path.name not in (".lock",) and not path.match(".*.tmp"):
            raise _refused(folder / RUN, f"is missing beside {path.name}")


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None


def _refused(path: Path, what: str) -> InputError:
    return InputError(f"{path} {what}: nothing was changed; move {path.parent} away to start anew")
