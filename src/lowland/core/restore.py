"""Putting a model back: everything that an instrument could disturb, bit for bit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowland.core.autocast import casts_not_kept

Undo = Callable[[], None]


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[nn.Module]:
    """Leave `model` and the random generators exactly as they were, however the block ends.

    Put back, also after an exception or Ctrl-C: the bits of every parameter and buffer (by copy
    into their own memory, so views, flat buffers and optimizers stay valid), the tensor objects
    themselves where the block replaced them, `training` of every single module, `requires_grad`,
    `.grad` (the same object with the same bits, or None), and the generators of torch (CPU, and
    every CUDA device once CUDA is in use), of Python's `random` and of NumPy's legacy interface.
    Putting back does not move autograd's version counters: if the block wrote through `.data`, a
    loss computed before can still be differentiated after. Modules, parameters and hooks that the
    block adds are not removed.

    Cost: one copy of parameters, buffers and gradients, on their own devices.

    >>> layer = nn.Linear(1, 1)
    >>> before = layer.weight.item()
    >>> with preserved(layer):
    ...     _ = nn.init.zeros_(layer.weight)
    >>> layer.weight.item() == before
    True
    """
    undo = [*_tensors(model), *_slots(model), *_gradients(model)]
    with preserved_randomness(), casts_not_kept():
        try:
            yield model
        finally:
            for step in undo:
                step()


@contextlib.contextmanager
def preserved_randomness() -> Iterator[None]:
    """Leave every global random generator as it was: whatever the block draws is drawn again after.

    Covers torch (CPU, and every CUDA device once CUDA is in use), Python's `random` and NumPy's
    legacy interface. Generator objects that someone else holds are theirs.
    """
    torch_state = torch.get_rng_state()
    cuda_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda_in_use else []
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        torch.cuda.set_rng_state_all(cuda_states)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _tensors(model: nn.Module) -> Iterator[Undo]:
    """How to put back the contents of every tensor, each once however often it is shared."""
    tensors: dict[int, Tensor] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                tensors[id(tensor)] = tensor
    yield from map(_tensor, tensors.values())


def _tensor(tensor: Tensor) -> Undo:
    """How to put back one tensor: its memory, the bits in it, and `requires_grad`."""
    home = tensor.data  # the same memory, kept in case the block points the tensor elsewhere
    values = home.clone()
    requires_grad = tensor.requires_grad

    def undo() -> None:
        home.copy_(values)
        if not _same_memory(tensor.data, home):
            tensor.data = home
        if tensor.is_leaf:
            tensor.requires_grad_(requires_grad)

    return undo


def _same_memory(left: Tensor, right: Tensor) -> bool:
    if left.layout != torch.strided or right.layout != torch.strided:
        return left is right
    return left.device == right.device and left.is_set_to(right)


def _slots(model: nn.Module) -> Iterator[Undo]:
    """How to put back which tensor sits under which name, and each module's mode."""
    for module in model.modules():
        yield _mode(module, module.training)
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                yield _slot(slots, name, tensor)


def _mode(module: nn.Module, training: bool) -> Undo:
    def undo() -> None:
        module.training = training  # not train(): models override it, to keep parts frozen

    return undo


def _slot(slots: dict[str, Any], name: str, tensor: Tensor | None) -> Undo:
    def undo() -> None:
        slots[name] = tensor

    return undo


def _gradients(model: nn.Module) -> Iterator[Undo]:
    """How to put back `.grad` of every parameter; after the parameters, whose shape it must fit."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield _tensor(parameter.grad)
        yield _gradient(parameter, parameter.grad)


def _gradient(parameter: nn.Parameter, gradient: Tensor | None) -> Undo:
    def undo() -> None:
        parameter.grad = gradient

    return undo
