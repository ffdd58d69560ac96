"""The IDX format: big-endian sizes, then bytes, optionally gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowland.core.errors import InputError
from lowland.data.files import read_source

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTE = 8


def read_idx(path: Path, *, dimensions: int) -> tuple[NDArray[np.uint8], str]:
    """An array of unsigned bytes with so many dimensions, and the file's SHA-256.

    The layout is 0, 0, 8 (unsigned byte), the number of dimensions, one big-endian 32-bit size
    for each, then exactly as many bytes as the sizes say. Gzip is recognised by its first bytes,
    not by the file's name.

    Raises:
        InputError: the file is missing, or is not that.
    """
    content, digest = read_source(path, "name the folder that holds the IDX files")
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is corrupt ({error}): fetch the file again") from None
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    start = 4 + 4 * dimensions
    if content[:4] != expected or len(content) < start:
        raise InputError(
            f"{path} is not an IDX file of {dimensions}-dimensional bytes: it starts with "
            f"{content[:4].hex() or 'nothing'}, expected {expected.hex()}; fetch the file again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InputError(
            f"{path} is truncated or foreign: its header says {math.prod(shape)} bytes, "
            f"{len(content) - start} follow; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape), digest
