"""Numbers from whatever a user has: real matrices, and the float64 copies that sums are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError


def as_matrix(features: Any, what: str) -> Tensor:
    """The real matrix (n, d) of `features` (n, ...): flattened per example, detached, finite.

    Raises:
        InputError: not numbers, complex, without examples or features, or not finite.
    """
    tensor = _as_tensor(features, what)
    if tensor.ndim == 0:
        raise InputError(f"{what}: got a single number; give an array with one row per example")
    if tensor.numel() == 0:
        shape = tuple(tensor.shape)
        raise InputError(f"{what}: empty, shape {shape}; give at least one example and feature")
    if not math.isfinite(largest(tensor)):
        raise InputError(
            f"{what}: NaN or infinity among them; remove those examples, or check the model"
        )
    return tensor.reshape(tensor.shape[0], -1)


def largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN or infinite if any element is. One read, no copy, one wait."""
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    return max(abs(float(low)), abs(float(high)))


def _as_tensor(features: Any, what: str) -> Tensor:
    if isinstance(features, list | tuple) and any(isinstance(row, Tensor) for row in features):
        features = _stacked(features, what)
    if not isinstance(features, Tensor):
        features = torch.from_numpy(_as_array(features, what))
    if features.is_complex():
        raise InputError(f"{what}: of type {features.dtype}; give real numbers")
    tensor: Tensor = features.detach()
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # the 8-bit floats have hardly any operations of their own
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _stacked(rows: list[Any] | tuple[Any, ...], what: str) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(row) for row in rows])
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"{what}: tensors of different shapes; give one row per example") from None


def _as_array(features: Any, what: str) -> np.ndarray[Any, Any]:
    """A writable native NumPy array of a type that torch knows, copied only where it must be."""
    try:
        array = np.asarray(features)
    except (TypeError, ValueError):
        raise InputError(f"{what}: not an array; give one row per example, all equal") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what}: of type {array.dtype}; give real numbers, one row per example")
    known = array.dtype.newbyteorder("=") in map(np.dtype, _TORCH_KNOWS)
    plain = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    if known and plain:
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("=") if known else np.float64, order="C")


_TORCH_KNOWS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")


def double(matrix: Tensor) -> Tensor:
    """A fresh float64 copy, where the device has that type; otherwise on the CPU."""
    device = matrix.device if matrix.device.type in ("cpu", "cuda") else torch.device("cpu")
    return matrix.to(device, torch.float64, copy=True)


def resolution(dtype: torch.dtype) -> float:
    """Relative size below which differences between features of this type are rounding noise.

    4 units in the last place of float32 for it and for narrower floats (which networks compute in
    float32 or worse), 64 of float64 for that type and for integers.
    """
    if dtype.is_floating_point and dtype != torch.float64:
        return 4 * torch.finfo(torch.float32).eps
    return 64 * torch.finfo(torch.float64).eps


def unit_for(size: float) -> float:
    """What to divide features of magnitude `size` by, so that sums of their squares fit float64.

    1, except outside 1e-100 to 1e100: there a power of two, so that dividing is exact.
    """
    if size == 0 or 1e-100 <= size <= 1e100:
        return 1.0
    return 2.0 ** max(-1000, math.frexp(size)[1])


def times_transpose(a: Tensor) -> Tensor:
    """A·Aᵀ. On the CPU through NumPy, whose symmetric product takes half the multiplications."""
    if a.device.type != "cpu":
        return a @ a.T
    array = a.numpy()
    return torch.from_numpy(array @ array.T)
