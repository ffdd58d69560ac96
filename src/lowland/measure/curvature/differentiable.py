"""Settings under which a network can be differentiated twice, whatever it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from lowland.core.differentiable import twice_differentiable_kernels
from lowland.measure.parameters import dense_gradients


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, autograd records, and the kernels that run have second derivatives.

    Beside those of `twice_differentiable_kernels`, cuDNN's recurrent layers have none. Autocast is
    off: it would round in places that no record names.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(twice_differentiable_kernels())
        stack.enter_context(dense_gradients(model))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
