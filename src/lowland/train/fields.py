"""Frozen records of settings: read from text and plain values, checked by the types of fields."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

from lowland.core.errors import InputError, unknown
from lowland.train.settings import Options, check, parse


class Fields:
    """What recipes of every kind have in common; for frozen dataclasses."""

    def normalise(self) -> None:
        """Bring every field to the normal form of its type (see `lowland.train.settings.check`).

        Raises:
            InputError: a value of another type.
        """
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, check(name, getattr(self, name), hint))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """A recipe from plain values, such as `to_dict` gives.

        Raises:
            InputError: an unknown key (the nearest one is given) or an unusable value.
        """
        for key in mapping:
            if key not in hints(cls):
                raise unknown("setting", key, hints(cls))
        return cls(**mapping)

    def with_settings(self, settings: Sequence[str]) -> Self:
        """This recipe with ``["epochs=5", "width=8"]`` changed, each read by its field's type.

        Raises:
            InputError: no ``=``, an unknown key (the nearest one is given) or an unusable value.
        """
        known = hints(type(self))
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            key = key.strip()
            if not equals:
                raise InputError(f"setting {setting!r} has no value: write key=value")
            if key not in known:
                raise unknown("setting", key, known)
            changes[key] = parse(key, text, known[key])
        return self.changed(**changes)

    def changed(self, **changes: Any) -> Self:
        """This recipe with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values, in the order of the fields."""
        known = hints(type(self))
        values = {name: getattr(self, name) for name in known}
        return {
            k: dict(v) if known[k] == Options else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
        }


def hints(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a dataclass, in order."""
    return _hints(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    found = typing.get_type_hints(kind)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def at_least(name: str, value: float, least: int) -> None:
    """Refuse what is too small.

    Raises:
        InputError: `value` is below `least`.
    """
    if value < least:
        raise InputError(f"{name} must be {least} or more, not {value}")
