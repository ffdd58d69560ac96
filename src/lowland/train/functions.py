"""A function by name with settings: what experiments and readings call, and what rows may hold."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowland.core.errors import InputError
from lowland.core.restore import preserved_randomness
from lowland.core.seeds import derived_seed
from lowland.train.history import Row

Setting = bool | int | float | str | None | tuple["Setting", ...]
Settings = tuple[tuple[str, Setting], ...]


def check_name(function: str) -> None:
    """Refuse what is not ``package.module:function``."""
    if not all(function.partition(":")):
        raise InputError(f"function must be package.module:function, not {function!r}")


def imported(function: str) -> Callable[..., Any]:
    """The function of that name.

    Raises:
        InputError: there is none.
    """
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise InputError(f"function {function}: {error}") from None
    if not inspect.isfunction(found):
        raise InputError(f"function {function}: {module} has no function {name}")
    return found


def check_settings(function: str, *positional: Any, **settings: Any) -> None:
    """Refuse settings that the function does not take.

    Raises:
        InputError: there is no such function, or it does not take these settings.
    """
    try:
        inspect.signature(imported(function)).bind(*positional, **settings)
    except TypeError as error:
        raise InputError(f"settings do not fit {function}: {error}") from None


def source_of(function: str) -> dict[str, str]:
    """The hash of the file that a function outside lowland is in; nothing for lowland's own."""
    if function.partition(".")[0] == "lowland":
        return {}
    source = Path(inspect.getfile(imported(function))).read_bytes()
    return {"file": hashlib.sha256(source).hexdigest()}


@contextlib.contextmanager
def own_settings(seed: int, threads: int) -> Iterator[None]:
    """Threads and seeded generators, for as long as something works."""
    before, seed = torch.get_num_threads(), derived_seed(seed, "experiment")
    with preserved_randomness():
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def checked_row(row: Mapping[str, Any], function: str) -> Row:
    """A row of plain numbers.

    Raises:
        TypeError: something else is in it.
    """
    for name, value in row.items():
        if not (value is None or isinstance(value, int | float)):
            kind = type(value).__name__
            raise TypeError(f"{function} gave a {kind} as {name}: rows are of int, float and None")
    return {name: int(v) if isinstance(v, bool) else v for name, v in row.items()}


def frozen_settings(given: Any) -> Settings:
    """Settings as sorted pairs, lists in them as tuples.

    Raises:
        InputError: a name or a value that a run cannot have.
    """
    pairs = given.items() if isinstance(given, Mapping) else given
    settings = {str(name): _frozen(str(name), value) for name, value in pairs}
    for name in ("rho", "seed"):
        if name in settings:
            raise InputError(f"settings have {name}, which the experiment has itself: leave it out")
    return tuple(sorted(settings.items(), key=lambda pair: pair[0]))


def plain_settings(settings: Settings) -> dict[str, Any]:
    """The same as JSON has it."""
    return {name: _plain(value) for name, value in settings}


def _frozen(name: str, value: Any) -> Setting:
    if isinstance(value, list | tuple):
        return tuple(_frozen(name, item) for item in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise InputError(f"settings.{name} must be numbers, words or lists of them, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"settings.{name} must be finite, not {value}")
    return value


def _plain(value: Setting) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
