"""The folder of a study: what may be in it, who may write to it, and what it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from lowland.core.errors import InputError
from lowland.core.files import locked, read_json, write_json
from lowland.data import short_name
from lowland.studies.study import Choice, Study

MARKER = "study.json"


def default_folder(study: Study, choice: Choice) -> Path:
    """``runs/STUDY-DATA-SIZE``, with the setting where it is not the usual one."""
    name = study.name.replace("/", "-")
    file = short_name(choice.data)
    setting = "" if choice.setting == study.setting else f"-{choice.setting}"
    exact = "-exact" if choice.exact else ""
    return Path("runs") / f"{name}-{file}-{choice.size}{setting}{exact}"


@contextlib.contextmanager
def claimed(out: Path, study: Study, choice: Choice) -> Iterator[None]:
    """Hold the folder for this process, marked as the place of this study on these data."""
    purpose = {
        "format": "lowland-study-folder",
        "study": study.name,
        "data": choice.data,
        "size": choice.size,
        "setting": choice.setting,
        **({"exact": "yes"} if choice.exact else {}),
    }
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder with --out")
    _refuse_foreign(out, purpose)
    with locked(out):
        _refuse_foreign(out, purpose)
        if not (out / MARKER).exists():
            write_json(out / MARKER, purpose)
        yield


def _refuse_foreign(out: Path, purpose: Mapping[str, str]) -> None:
    marker = out / MARKER
    if marker.exists():
        found = read_json(marker, "study record")
        if not isinstance(found, dict) or found.get("format") != purpose["format"]:
            raise InputError(f"{marker} is not of lowland: choose another folder with --out")
        if different := [
            name for name in (*purpose, "exact") if found.get(name) != purpose.get(name)
        ]:
            name = different[0]
            held, asked = (facts.get(name, "no") for facts in (found, purpose))
            what = f"the study {held}" if name == "study" else f"a study of {name} {held}"
            raise InputError(f"{out} holds {what}, not {asked}: choose another folder with --out")
        return
    if out.is_dir() and (strange := [path.name for path in out.iterdir() if path.name != ".lock"]):
        raise InputError(
            f"{out} is not a study's folder, it holds {min(strange)}: "
            "choose another folder with --out"
        )


@contextlib.contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """Turn an operating system's refusal into one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        reason = error.strerror or str(error)
        raise InputError(
            f"{where}: {reason}; finished runs are kept: mend it, or choose another --out"
        ) from error
