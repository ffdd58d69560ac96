"""What processes on several machines must have in common, and the check that they do.

All of them write run directories in one folder, one process to a directory. That is safe where the
folder is the same for all and where a lock that one takes is seen by the others. Both are found
out by trying: the driver leaves a token that it has locked, and each node looks for it. A network
file system that is mounted without locks (NFS with ``nolock`` or ``local_lock``) fails that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lowland.core.errors import InputError
from lowland.core.provenance import source_hash
from lowland.train.experiment import DETERMINES
from lowland.train.runnable import Runnable
from lowland.train.tracking import LoggerFactory, Tracking


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a node must have to do runs.

    Attributes:
        token: a file that the driver has written and locked.
        text: what is in it.
        folder: the driver's working directory, from which paths of data are read.
        data: files and folders that the recipes name.
        loggers: makes the loggers of the runs, or None.
    """

    token: Path
    text: str
    folder: Path
    data: tuple[str, ...]
    loggers: LoggerFactory | None = None


def code() -> str:
    """What must be the same everywhere: lowland's source and torch's version decide a run."""
    return f"{source_hash(DETERMINES)} {torch.__version__}"


@contextlib.contextmanager
def offered(
    root: Path, recipes: Sequence[Runnable], loggers: LoggerFactory | None = None
) -> Iterator[Terms]:
    """Terms for runs under `root`, with a token there that is removed afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".sweep-*"):  # by a driver that was killed
        with contextlib.suppress(OSError), open(left, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    # a new name each time: no node can have looked for it and remembered that it was missing
    text = uuid.uuid4().hex
    token = root / f".sweep-{text}"
    data = tuple(sorted({place for recipe in recipes for place in recipe.files}))
    try:
        with open(token, "x") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            yield Terms(token=token, text=text, folder=Path.cwd(), data=data, loggers=loggers)
    finally:
        token.unlink(missing_ok=True)


def refusal(terms: Terms) -> str | None:
    """Why this process cannot do runs on these terms; None if it can.

    The working directory becomes the driver's where that exists.
    """
    host, root = platform.node(), terms.token.parent
    remedy = "put --out on a file system that all nodes share"
    try:
        with open(terms.token, "r+") as file:
            if file.read() != terms.text:
                return f"node {host} has another {root} than this machine: {remedy}"
            if not _locked_elsewhere(file.fileno()):
                return (
                    f"node {host} does not see locks on {root}: mount it with locks (for NFS "
                    "without nolock and local_lock), or two nodes could write one run"
                )
    except OSError as error:
        reason = error.strerror or str(error)
        return f"node {host} cannot write to {root} ({reason}): {remedy}"
    if terms.folder.is_dir():
        os.chdir(terms.folder)
    for place in terms.data:
        if not Path(place).expanduser().exists():
            return f"node {host} does not see {place}: put the data where all nodes can read them"
    if isinstance(terms.loggers, Tracking):
        try:
            terms.loggers.check()
        except InputError as error:
            return f"node {host}: {error}"
    return None


def _locked_elsewhere(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
