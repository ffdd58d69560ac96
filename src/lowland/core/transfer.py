"""From the host to a device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; on the one that it is on already, itself.

    A plain ``.to`` from ordinary memory of the host to a GPU returns when all work that was queued
    there before is done. From page-locked memory the copy is queued behind that work, and the host
    goes on at once: torch keeps the memory until the copy is made.

    >>> sent(torch.ones(2), "cpu")
    tensor([1., 1.])
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
