"""Lightning comes as two packages of the same contents, each foreign to the other's classes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any


def of_loaded(packages: Sequence[str], part: str) -> Any:
    """Module `part` of the package that is imported already, or else of the first installed.

    Raises:
        ImportError: none of them is installed.
    """
    loaded = [name for name in packages if name in sys.modules]
    for name in loaded or packages:
        try:
            return importlib.import_module(f"{name}.{part}")
        except ModuleNotFoundError:
            continue
    raise ImportError(f"none of {', '.join(packages)} is installed: pip install lightning")
