"""JSON records that know their own SHA-256, so that damage anywhere in them is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_json

VERSION = 1


def write_sealed(path: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write `record` atomically, with its kind, the version of the format, and its SHA-256."""
    head = {"format": f"lowland-{kind}", "version": VERSION, "sha256": _digest(record)}
    write_json(path, {**head, **record})


def read_sealed(path: Path, kind: str, run: str | None = None) -> dict[str, Any]:
    """What `write_sealed` wrote, without what it added.

    Args:
        path: the file.
        kind: what it must be.
        run: name of the run that it must belong to, by its key ``run``; None for any.

    Raises:
        InputError: the file is missing, damaged, foreign, of another version or of another run.
    """
    record = read_json(path, kind)
    if not isinstance(record, dict) or record.pop("format", None) != f"lowland-{kind}":
        raise refused(path, f"is not a {kind} of lowland")
    if (version := record.pop("version", None)) != VERSION:
        raise refused(path, f"has format version {version}, this is {VERSION}")
    if record.pop("sha256", None) != _digest(record):
        raise refused(path, "does not have the SHA-256 that it records")
    if run is not None and record["run"] != run:
        raise refused(path, f"belongs to run {record['run']}, not {run}")
    return record


def refused(path: Path, what: str) -> InputError:
    """An `InputError` about a file of a run directory."""
    return InputError(f"{path} {what}: nothing was changed; move {path.parent} away to start anew")


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
