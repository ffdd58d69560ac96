"""Networks made by the user's own code: ``package.module:function``."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lowland.core.errors import InputError, one_line


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """``["depth=18", "name=resnet"]`` as a mapping; values are Python literals, else words.

    >>> parse_arguments(["depth=18", "name=resnet", "norm=None"])
    {'depth': 18, 'name': 'resnet', 'norm': None}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip().isidentifier():
            raise InputError(f"argument {pair!r}: write key=value")
        found[key.strip()] = literal(text.strip())
    return found


def literal(text: str) -> Any:
    """A Python literal (numbers, truth values, None, tuples), else the word itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def construct(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call ``package.module:function`` (or ``:Class.method``); it returns the network.

    Modules in the working folder are found.

    Raises:
        InputError: no such module or function, it fails, or it returns no network.
    """
    function = _imported(name)
    try:
        made = function(**arguments)
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"constructor {name} failed: {type(error).__name__}: {one_line(error)}: give its "
            "arguments by --argument key=value"
        ) from None
    if not isinstance(made, nn.Module):
        raise InputError(f"constructor {name} returned {type(made).__name__}, no torch.nn.Module")
    return made


def _imported(name: str) -> Any:
    place, colon, path = name.partition(":")
    if not colon or not path or not place:
        raise InputError(f"constructor {name!r}: write package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(place)
    except ImportError as error:
        raise InputError(f"constructor {name}: {one_line(error)}") from None
    except Exception as error:  # whatever the module does when it is imported
        raise InputError(
            f"constructor {name}: importing {place} failed: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from None
    finally:
        sys.path.remove(here)
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise InputError(f"constructor {name}: {place} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"constructor {name} is no function")
    return found
