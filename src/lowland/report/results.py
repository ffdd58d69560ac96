"""Reading `results.json`, the one record that every report is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import read_json

RESULTS = "results.json"
FORMAT = "lowland-study"
VERSION = 1

_PARTS = ("key", "study", "asked", "rule", "claims", "panels", "notes", "runs", "provenance")


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a study's folder, checked to be ours.

    Raises:
        InputError: the folder or the file is missing, damaged, foreign or of another version.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give that of a study, an inspection or a compression"
        )
    path = folder / RESULTS
    if not path.exists():
        raise InputError(
            f"{folder} has no {RESULTS}: run `lowland study` to its end with --out {folder}"
        )
    try:
        results = read_json(path, "results")
    except InputError as error:
        raise InputError(
            f"{error}; remove it, and the study makes it again from its runs, which are kept"
        ) from None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise InputError(f"{path} is not a result of `lowland study`; nothing was changed")
    if results.get("version") != VERSION:
        raise InputError(
            f"{path} has format version {results.get('version')}, this lowland reads {VERSION}: "
            "run the study again in another folder"
        )
    if missing := [part for part in _PARTS if part not in results]:
        raise InputError(f"{path} lacks {missing[0]!r}; nothing was changed")
    return results
