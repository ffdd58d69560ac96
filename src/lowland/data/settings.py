"""Settings in the names of data sets: ``KIND:PLACE,KEY=VALUE,KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError, unknown


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        words: what its value is, as in ``correlation=SHARE``.
        read: makes the value of its text; a ValueError says what would do.
        default: the value where it is not given.
        required: whether it must be given.
        place: whether the value is a file or folder.
    """

    words: str
    read: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    place: bool = False


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the name of a kind of data set is written.

    Attributes:
        kind: what stands before the colon.
        place: what stands right behind it, ``FOLDER`` or ``PATH``; None for nothing.
        settings: by key.
    """

    kind: str
    place: str | None = None
    settings: Mapping[str, Setting]

    @property
    def example(self) -> str:
        """The name with all that it must have."""
        needed = [f"{k}={s.words}" for k, s in self.settings.items() if s.required]
        parts = ([self.place] if self.place else []) + needed
        return f"{self.kind}:{','.join(parts)}" if parts else self.kind

    @property
    def optional(self) -> str:
        """The settings that it may have besides."""
        free = [(k, s) for k, s in self.settings.items() if not s.required]
        return ", ".join(f"{key}={setting.words}" for key, setting in free)

    @property
    def beginnings(self) -> tuple[str, ...]:
        """What a name begins with: the kind alone only where it needs nothing more."""
        return (self.kind, f"{self.kind}:") if self.example == self.kind else (f"{self.kind}:",)


@dataclass(frozen=True)
class Named:
    """A name, taken apart.

    Attributes:
        place: the file or folder behind the colon, "" without one.
        values: the values of all settings, defaults among them.
        given: the settings that the name has, as they are written.
    """

    place: str
    values: Mapping[str, Any]
    given: Mapping[str, str]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def path(self) -> Path:
        return Path(self.place).expanduser()


def read_name(name: str, form: Form) -> Named:
    """Take a name apart.

    The first part is the place where the form has one; the others are KEY=VALUE. No path and no
    value has a comma.

    Raises:
        InputError: no place, an unknown key, one that is given twice, has no value or one out of
            range, or a required one that is missing.
    """
    rest = name.partition(":")[2]
    parts = rest.split(",") if ":" in name else []
    place = parts.pop(0) if form.place and parts else ""
    if form.place and (not place or place.partition("=")[0] in form.settings):
        raise InputError(f"data set {name!r} lacks its {form.place.lower()}: {form.example}")
    given: dict[str, str] = {}
    for part in parts:
        key, sign, text = (piece.strip() for piece in part.partition("="))
        if not sign:
            raise InputError(
                f"data set {name!r}: {part!r} is no setting: write KEY=VALUE with "
                f"{', '.join(form.settings)}; paths have no commas"
            )
        if key not in form.settings:
            raise unknown(f"setting of {form.kind}", key, form.settings)
        if not text:
            words = form.settings[key].words
            raise InputError(f"data set {name!r}: {key} has no value: write {key}={words}")
        if key in given:
            raise InputError(f"data set {name!r}: {key} is given twice: leave one out")
        given[key] = text
    return Named(place, _values(name, form, given), given)


def _values(name: str, form: Form, given: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, setting in form.settings.items():
        values[key] = setting.default
        if key in given:
            try:
                values[key] = setting.read(given[key])
            except ValueError as error:
                raise InputError(f"{form.kind}: {key} is {given[key]}: give {error}") from None
        elif setting.required:
            raise InputError(f"data set {name!r} lacks its {key}: {form.example}")
    return values


def places_in(name: str, form: Form) -> tuple[str, ...]:
    """The files and folders that a name has."""
    named = read_name(name, form)
    inside = [text for key, text in named.given.items() if form.settings[key].place]
    return (*([named.place] if named.place else []), *inside)


def number(low: float, high: float) -> Callable[[str], float]:
    """Reads a number from `low` to `high`."""

    def read(text: str) -> float:
        words = f"a number from {low:g} to {high:g}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(words) from None
        if not low <= value <= high:
            raise ValueError(words)
        return value

    return read


def whole(low: int) -> Callable[[str], int]:
    """Reads a whole number, at least `low`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise ValueError(f"a whole number, at least {low}")
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return read


CORRELATION = Setting(words="SHARE", read=number(0.5, 1.0), default=0.95)
SIZE = Setting(words="PIXELS", read=whole(8), default=224)
