"""Second derivatives, whatever a network is made of; and activation checkpoints on the way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint


@contextlib.contextmanager
def twice_differentiable_kernels() -> Iterator[None]:
    """Inside, the kernels that run have second derivatives, and right ones.

    The flash and memory-efficient kernels of scaled dot-product attention have none, nor has the
    fused path of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` in eval mode; that of
    weight normalization has wrong ones. Reentrant checkpoints keep their activations. Backward
    passes belong inside too: checkpoints of the other kind run the forward again there.
    """
    with (
        sdpa_kernel(SDPBackend.MATH),
        _no_fused_attention(),
        activations_kept(),
        _plain_weight_norm(),
    ):
        yield


class _Plain:
    """Stands for ``torch.utils.checkpoint.CheckpointFunction``: calls, and keeps what it made."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


@contextlib.contextmanager
def activations_kept() -> Iterator[None]:
    """Inside, ``checkpoint(..., use_reentrant=True)`` calls its function and recomputes nothing.

    A reentrant checkpoint has a backward pass of its own, which `torch.autograd.grad` for weights
    does not reach: those inside would silently have no gradient. Activations take the memory that
    the checkpoints would have saved. The other kind of checkpoint needs no such help.
    """
    name = "CheckpointFunction"
    before = getattr(checkpoint, name)
    setattr(checkpoint, name, _Plain)
    try:
        yield
    finally:
        setattr(checkpoint, name, before)


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, whose second derivatives torch's own kernel for it has wrong: not symmetric."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextlib.contextmanager
def _plain_weight_norm() -> Iterator[None]:
    """Inside, both kinds of weight normalization that torch has go by the formula."""
    name = "_weight_norm"
    places = [torch, sys.modules["torch.nn.utils.weight_norm"]]  # the older kind has a copy
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, _weight_norm)
    try:
        yield
    finally:
        for place, own in zip(places, before, strict=True):
            setattr(place, name, own)
