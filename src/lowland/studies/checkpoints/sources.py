"""Where the checkpoints are that the user has: a folder of ``.npz`` files, or names one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowland.core.errors import InputError, unknown
from lowland.studies.checkpoints.published import ARCHITECTURES, FOLDERS, TRAININGS
from lowland.studies.recipes import own_settings

FOLDER = "checkpoints"
KEYS = (
    FOLDER,
    "examples",
    "batch_size",
    "device",
    "threads",
    *(f"{training}.{a.file}" for training in TRAININGS for a in ARCHITECTURES),
)
"""What ``--set`` takes."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user says to the study.

    Attributes:
        checkpoints: (training, place among `ARCHITECTURES`) -> a name as `lowland inspect` takes.
        numbers: whole numbers by name: examples, batch_size, threads.
        device: ``cpu``, ``cuda`` or ``auto``.
    """

    checkpoints: Mapping[tuple[str, int], str]
    numbers: Mapping[str, int]
    device: str


def asked(overrides: tuple[str, ...], usual: Mapping[str, int]) -> Asked:
    """What ``--set`` says, with `usual` numbers where it says nothing.

    Raises:
        InputError: unknown keys (the nearest is given), numbers that are none, or a folder that is
            missing or holds no checkpoint under its published name.
    """
    own, rest = own_settings(overrides, KEYS)
    if rest:
        raise unknown("setting of low-rank/checkpoints", rest[0].partition("=")[0].strip(), KEYS)
    numbers = {name: _whole(name, own[name]) if name in own else n for name, n in usual.items()}
    found = _in_folder(Path(own[FOLDER]).expanduser()) if FOLDER in own else {}
    for training in TRAININGS:
        for place, architecture in enumerate(ARCHITECTURES):
            if (key := f"{training}.{architecture.file}") in own:
                found[training, place] = own[key]
    return Asked(checkpoints=found, numbers=numbers, device=own.get("device", "auto"))


def stamp(checkpoint: str) -> str:
    """Size and time of a file, so that another file of the same name is another run."""
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        return ""
    seen = path.stat()
    return f"{seen.st_size} {seen.st_mtime_ns}"


def _whole(name: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"{name} must be a whole number, 1 or more, not {text!r}")
    return number


def _in_folder(folder: Path) -> dict[tuple[str, int], str]:
    """The checkpoints of a folder by their published names, each in one of `FOLDERS`."""
    if not folder.is_dir():
        raise InputError(f"checkpoints={folder}: no such folder: {_layout()}")
    found = {}
    for training, names in FOLDERS.items():
        for place, architecture in enumerate(ARCHITECTURES):
            paths = [folder / name / f"{architecture.file}.npz" for name in names]
            there = [path for path in paths if path.is_file()]
            if len(there) > 1:
                raise InputError(f"{there[0]} and {there[1]} are both there: remove one of them")
            if there:
                found[training, place] = str(there[0])
    if not found:
        raise InputError(f"checkpoints={folder} holds none of the ten checkpoints: {_layout()}")
    return found


def _layout() -> str:
    first = f"{ARCHITECTURES[0].file}.npz"
    return (
        f"give one with {TRAININGS[0]}/{first}, {TRAININGS[1]}/{first} and so on "
        f"({', '.join(a.file for a in ARCHITECTURES[1:])})"
    )
