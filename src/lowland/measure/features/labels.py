"""Labels that go with rows of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError


def whole_labels(labels: Any, n: int | None, what: str) -> Tensor:
    """`labels` as n whole numbers on the CPU; of any number if `n` is None.

    Raises:
        InputError: of another number or shape, or not whole numbers.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or (n is not None and len(array) != n):
        many = "each example" if n is None else f"each of {n} examples"
        raise InputError(f"{what}: shape {array.shape}; give one label for {many}")
    if array.dtype.kind not in "biu":
        raise InputError(f"{what}: of type {array.dtype}; give whole numbers")
    return torch.from_numpy(array.astype(np.int64))
