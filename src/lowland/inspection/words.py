"""Values of the command line's options."""

from __future__ import annotations

import math
import re

from lowland.core.errors import InputError


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width: ``224`` or ``224x160``.

    >>> parse_size("224"), parse_size("224x160")
    ((224, 224), (224, 160))
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if found is None or int(found[1]) < 1 or int(found[2] or 1) < 1:
        raise InputError(f"--size must be pixels such as 224, or 224x160, not {text!r}")
    height = int(found[1])
    return height, int(found[2] or height)


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """One number for all channels, or one for each, with commas between.

    >>> parse_numbers("mean", "0.485,0.456,0.406")
    (0.485, 0.456, 0.406)
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise InputError(f"--{name} must be numbers such as 0.5 or 0.485,0.456,0.406, not {text!r}")
    return numbers


def default_folder(names: list[str]) -> str:
    """Where an inspection goes that is told nothing: ``runs/inspect-NAME``, or both names.

    >>> default_folder(["runs/a/", "hf:org/model"])
    'runs/inspect-a-and-model'
    """
    last = [re.split(r"[/:]", name.rstrip("/"))[-1] or "model" for name in names]
    words = "-and-".join(re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model" for name in last)
    return f"runs/inspect-{words}"
