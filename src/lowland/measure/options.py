"""Options of instruments as people write them, read and checked before anything is measured."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.restore import preserved_randomness
from lowland.measure.instruments import Instrument, check_options, find_instrument

SIDE = 64
"""The stand-in for a network has SIDE² weights: more than anyone asks eigenvalues of."""


def read_options(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Instrument -> its options, each value in the type that the instrument takes.

    Words become what they stand for (``inf``, ``none``, ``float64``) where the option takes that,
    and a single value becomes a list of one where it takes lists alone. Then every instrument is
    called with data that cannot be read: what it refuses before it looks at them is refused here.
    A value that only fits some data or networks (``active.channels``) passes.

    Raises:
        InputError: an instrument or option that does not exist, or a value that it cannot take.
    """
    check_options(options)
    found = {}
    for name, given in options.items():
        instrument = find_instrument(name)
        hints = option_hints(instrument)
        found[name] = {key: _read(f"{name}.{key}", v, hints.get(key)) for key, v in given.items()}
        _try(instrument, found[name])
    return found


def option_hints(instrument: Instrument) -> dict[str, Any]:
    """Option -> its type, as far as the instrument says."""
    hints = typing.get_type_hints(instrument.measure)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(instrument.measure).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= typing.get_type_hints(get_args(hints[name])[0])
        elif name in hints:
            found[name] = hints[name]
    return found


def _read(name: str, value: Any, hint: Any) -> Any:
    kinds = list(_kinds(hint))
    if hint is None or Any in kinds:
        return value
    for read in (value, *_meanings(value)):
        if any(_is(read, kind) for kind in kinds):
            return read
    if any(_is((value,), kind) for kind in kinds):
        return (value,)
    wanted = " or ".join(dict.fromkeys(_word(kind, kinds) for kind in kinds))
    raise InputError(f"{name} must be {wanted}, not {value!r}")


def _kinds(hint: Any) -> Iterator[Any]:
    """The alternatives of a union, or the one type; choices one by one."""
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        yield hint


def _meanings(value: Any) -> Iterator[Any]:
    """What a word may stand for, or a number that is written as another type."""
    if isinstance(value, str):
        words: dict[str, Any] = {"none": None, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}
        if value.lower() in words:
            yield words[value.lower()]
        if isinstance(found := getattr(torch, value.removeprefix("torch."), None), torch.dtype):
            yield found
    elif value is None:
        yield "none"
    elif isinstance(value, float) and value.is_integer():
        yield int(value)  # 1e3


def _is(value: Any, kind: Any) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is not None and issubclass(get_origin(kind), Sequence):
        inner = list(_kinds(get_args(kind)[0]))
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return several and all(any(_is(item, k) for k in inner) for item in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    torch.dtype: "a type such as float64",
    type(None): "none",
}


def _word(kind: Any, beside: Sequence[Any] = ()) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is not None:
        inner = get_args(kind)[0]
        return "several" if inner in beside else f"a list, each {_word(inner)}"
    return _WORDS.get(kind, str(kind))


class _LookedAtError(BaseException):
    """An instrument has accepted its options and begins to read; no `except Exception` hides it."""


class _Unread:
    """Features, or batches, that cannot be read."""

    def __iter__(self) -> Iterator[Any]:
        raise _LookedAtError

    def __call__(self) -> Iterator[Any]:
        raise _LookedAtError


def _try(instrument: Instrument, options: Mapping[str, Any]) -> None:
    """Call an instrument with its options and with nothing to measure."""
    unread, network = _Unread(), _stand_in()
    arguments: tuple[Any, ...] = {
        "features": (unread,),
        "labelled features": (unread, torch.tensor([0, 1])),
        "weights": (network,),
        "loss": (network, nn.functional.cross_entropy, unread),
    }[instrument.looks_at]
    try:
        with preserved_randomness():
            instrument.measure(*arguments, **{**dict(instrument.options), **options})
    except InputError as error:
        raise InputError(f"{instrument.name}: {error}") from None
    except (_LookedAtError, Exception):  # the options passed, or the stand-in is not enough
        return


def _stand_in() -> nn.Module:
    network = nn.Linear(SIDE, SIDE, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    return network
