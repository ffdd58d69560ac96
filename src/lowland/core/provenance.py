"""Where a number comes from: the code, the versions, the machine and the time."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the lowland package that is running."""


def provenance() -> dict[str, Any]:
    """What is needed to say where a result was made, as plain values ready for JSON.

    Returns:
        ``lowland``, ``torch``, ``numpy`` and ``python`` versions; ``commit`` of lowland and
        whether it was ``modified`` (None where it does not run from a git checkout); ``platform``,
        ``cpu``, ``cores``, ``threads`` (of torch, now), ``gpu`` (None without one); ``time`` (UTC,
        ISO 8601, to the second).
    """
    return {
        **_versions(),
        **_hardware(),
        "threads": torch.get_num_threads(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def source_hash(parts: tuple[str, ...], package: Path = PACKAGE) -> str:
    """One SHA-256 over lowland's own source in the named subpackages, file names included.

    It changes exactly when a line of that code changes, so results of different code are never
    taken for each other. Read once per process, as the code itself is.

    Args:
        parts: subpackages, for example ``("core", "optim")``; their order does not matter.
        package: the folder that they lie in.
    """
    digest = hashlib.sha256()
    files = (path for part in parts for path in (package / part).rglob("*.py"))
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def _versions() -> dict[str, Any]:
    try:
        version: str | None = importlib.metadata.version("lowland")
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        version = None
    return {
        "lowland": version,
        **_checkout(PACKAGE / "__init__.py"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def _hardware() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name(listing: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; ``platform.processor()`` is empty on most Linux systems."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _checkout(file: Path) -> dict[str, Any]:
    """Commit of the checkout that `file` is part of, and whether its folder was modified since.

    Only if git tracks the file: a lowland installed into an environment inside somebody else's
    repository is not tracked by that repository, and its commit would say nothing.
    """
    folder = file.parent
    tracked = _git(folder, "ls-files", "--error-unmatch", str(file)) is not None
    commit = _git(folder, "rev-parse", "HEAD") if tracked else None
    if commit is None:
        return {"commit": None, "modified": None}
    return {"commit": commit, "modified": bool(_git(folder, "status", "--porcelain", "--", "."))}


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in `folder`; None where git is missing or refuses."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
