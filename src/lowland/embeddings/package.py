"""faiss, which is optional and heavy: imported where it is used, and asked for in one line."""

from __future__ import annotations

import functools
import mmap
from typing import Any

import numpy as np

from lowland.core.errors import InputError

BUFFERS = {"NumPy": 2**25, "faiss": 2**27}
"""Bytes that the OpenBLAS of each maps at its first product of matrices, as its builds for x86-64
do: strace shows them. Few of them are ever touched."""


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


@functools.cache
def reserve_buffer(name: str) -> None:
    """Have the linear algebra of NumPy or faiss take its memory now, while there is some.

    Where a limit of memory (``ulimit -v``) refuses it, faiss's OpenBLAS calls a null pointer, which
    is a segmentation fault, and NumPy's ends the process. So it is asked for first, and given back,
    and then taken by a first product of matrices. What is taken stays taken: ask just before it is
    needed, so that what comes before has the memory.

    Args:
        name: a key of `BUFFERS`.

    Raises:
        InputError: it is refused.
    """
    size = BUFFERS[name]
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise InputError(
            f"the limit of memory leaves less than {size >> 20} MiB, which {name} takes for "
            "products of matrices: raise it (ulimit -v)"
        ) from None
    square = np.eye(256, dtype=np.float32)
    if name == "NumPy":
        np.matmul(square, square)
        return
    library = faiss()
    linear = library.LinearTransform(256, 256, False)
    library.copy_array_to_vector(square.ravel(), linear.A)
    linear.is_trained = True
    linear.apply(square)
