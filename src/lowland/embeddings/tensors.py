"""One tensor of a .safetensors file, mapped from the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError, unknown

_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2"},
    **{"I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "BOOL": "?"},
}


class Bfloat16:
    """An array of bfloat16, which NumPy has no type for: widened to float32 where it is read."""

    def __init__(self, halves: npt.NDArray[np.uint16]) -> None:
        self._halves = halves
        self.shape, self.ndim = halves.shape, halves.ndim
        self.dtype = _NAMED_BFLOAT16

    def __len__(self) -> int:
        return len(self._halves)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        wide = self._halves[rows].astype(np.uint32)
        wide <<= 16
        found: npt.NDArray[np.float32] = wide.view(np.float32)
        return found


class _Named:
    name = "bfloat16"


_NAMED_BFLOAT16 = _Named()


def open_tensors(path: Path, name: str | None) -> Any:
    """The tensor of that name, or the only one there is, as an array that is not read yet.

    Raises:
        InputError: no such tensor, several without a name, or no .safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # checks sizes and offsets
            names = list(file.keys())
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole .safetensors file ({error})") from None
    if name is not None and name not in names:
        raise unknown(f"tensor of {path}", name, names)
    if name is None and len(names) != 1:
        some = ", ".join(sorted(names)[:5])
        raise InputError(f"{path} has {len(names)} tensors ({some}): name one with --column")
    return _mapped(path, name or names[0])


def _mapped(path: Path, name: str) -> Any:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    if entry["dtype"] not in _TYPES:
        raise InputError(f"{path}: {name} holds {entry['dtype']}: save it as float16 or float32")
    kind = np.dtype(_TYPES[entry["dtype"]])
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, kind)
    offset = 8 + length + entry["data_offsets"][0]
    array = np.memmap(path, dtype=kind, mode="r", offset=offset, shape=shape)
    return Bfloat16(array) if entry["dtype"] == "BF16" else array
