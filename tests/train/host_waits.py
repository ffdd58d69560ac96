"""Counts what makes the host wait for a device, without one.

Tensors on torch's device "meta" have shapes and no values. A copy between the host and them is
seen as one between the host and a GPU is, and a value that is asked for cannot be had. Where values
are needed, the same code runs on the CPU, and only the asking is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = {
    "_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
"""Operations whose result, or its shape, the host has to know."""

MAKING = {torch.tensor, torch.as_tensor}
"""Functions that copy from the host what they are given."""


class HostWaits:
    """A context in which waits are counted, by what they are.

    Attributes:
        found: name of the operation, "copy" or "mask" -> how often.
        laps: the same at each `lap`, since the one before.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.laps: list[Counter[str]] = []
        self._modes = (_Dispatched(self.found), _Made(self.found))

    def lap(self) -> None:
        """Begin to count anew."""
        self.laps.append(Counter(self.found))
        self.found.clear()

    def __enter__(self) -> HostWaits:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ASKING:
            self._found[name] += 1
        if name in ("index", "index_put", "index_put_") and any(map(_is_mask, args[1])):
            self._found["mask"] += 1
        out = func(*args, **kwargs)
        if name in ("_to_copy", "copy_", "_copy_from"):
            ends = {t.device.type for t in (*args, out) if isinstance(t, Tensor)}
            if len(ends) > 1:
                self._found["copy"] += 1
        return out


class _Made(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKING and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            self._found["copy"] += 1
        return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
