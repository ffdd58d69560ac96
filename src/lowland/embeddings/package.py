"""faiss, which is optional and heavy: imported where it is used, and asked for in one line."""

from __future__ import annotations

from typing import Any

from lowland.core.errors import InputError


def faiss() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss as module
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise InputError(
            'this needs faiss, which is not installed: pip install "lowland[retrieval]"'
        ) from None
    return module
