"""Settings under which a network can be differentiated twice, whatever it is made of."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowland.measure.checkpointing import activations_kept
from lowland.measure.parameters import dense_gradients


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, autograd records, and the kernels that run have second derivatives.

    The flash and memory-efficient kernels of scaled dot-product attention have none, nor has the
    fused path of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` in eval mode, nor have
    cuDNN's recurrent layers; that of weight normalization has wrong ones. Reentrant checkpoints
    keep their activations. Autocast is off: it would round in places that no record names.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_no_fused_attention())
        stack.enter_context(activations_kept())
        stack.enter_context(dense_gradients(model))
        stack.enter_context(_plain_weight_norm())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


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
