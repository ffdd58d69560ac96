"""Values of a recipe's fields: read from text, and checked against the field's type."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from lowland.core.errors import InputError

Scalar = bool | int | float | str
Options = tuple[tuple[str, Scalar], ...]
"""Named options, sorted by name, so that equal options are equal tuples."""

_SETTING = re.compile(r"[A-Za-z_]\w*\s*=")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(name: str, text: str, hint: Any) -> Any:
    """The value of field `name` of type `hint` that `text` says.

    Lists are separated by commas (``labels=0,1,2``), options are ``key=value`` pairs separated by
    commas (``method_options=k=5,alpha=0.7``), None is written ``none``. In a list of words what
    begins with ``key=`` belongs to the word before: names of data sets have settings between commas
    themselves (``transfer_data=digit-dominoes:easy=none,hard=3-8,digits`` are two).

    Raises:
        InputError: the text says nothing of that type.
    """
    kind, optional = _optional(hint)
    if optional and text.lower() == "none":
        return None
    items = [part.strip() for part in text.split(",") if part.strip()]
    if kind == Options:
        return check(name, [_option(name, item) for item in items], hint)
    if get_origin(kind) is tuple:
        one = get_args(kind)[0]
        return tuple(
            _parse_one(name, item, one) for item in (_words(items) if one is str else items)
        )
    return check(name, _parse_one(name, text.strip(), kind), hint)


def check(name: str, value: Any, hint: Any) -> Any:
    """`value` in the normal form of its type: integers become floats where the field is one,
    lists become tuples, options are sorted.

    Raises:
        InputError: a value of another type, or a float that is not finite.
    """
    kind, optional = _optional(hint)
    if value is None and optional:
        return None
    if kind == Options:
        return _check_options(name, value)
    if get_origin(kind) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _wrong(name, value, "a list")
        return tuple(_check_one(name, item, get_args(kind)[0]) for item in value)
    return _check_one(name, value, kind)


def _words(items: Sequence[str]) -> list[str]:
    """Words of a list, each with the settings that follow it."""
    words: list[str] = []
    for item in items:
        if words and _SETTING.match(item):
            words[-1] += f",{item}"
        else:
            words.append(item)
    return words


def _optional(hint: Any) -> tuple[Any, bool]:
    """`hint` without None, and whether None was in it."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0], len(kinds) < len(get_args(hint))


def _parse_one(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise _wrong(name, text, _word(kind)) from None


def _check_one(name: str, value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise _wrong(name, value, _word(kind))
    if kind is float and not math.isfinite(value):
        raise _wrong(name, value, "a finite number")
    return value


def _check_options(name: str, value: Any) -> Options:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        options = {str(key): item for key, item in pairs}
    except (TypeError, ValueError):
        raise _wrong(name, value, "key=value pairs") from None
    for key, item in options.items():
        if not isinstance(item, bool | int | float | str):
            raise _wrong(f"{name}.{key}", item, "a number, a truth value or a word")
        if isinstance(item, float) and not math.isfinite(item):
            raise _wrong(f"{name}.{key}", item, "a finite number")
    return tuple(sorted(options.items()))


def _option(name: str, text: str) -> tuple[str, Scalar]:
    """``"alpha=0.7"`` as a pair; the value is the first of int, float, truth value, word."""
    key, equals, word = (part.strip() for part in text.partition("="))
    if not (key and equals and word):
        raise _wrong(name, text, "key=value pairs")
    for kind in (int, float):
        try:
            return key, kind(word)
        except ValueError:
            continue
    return key, {"true": True, "false": False}.get(word.lower(), word)


def _word(kind: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return words[kind]


def _wrong(name: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{name} must be {wanted}, not {value!r}")
