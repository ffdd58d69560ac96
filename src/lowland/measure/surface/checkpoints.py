"""Other weights for the same network: a model or a state dict, checked name by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError

Checkpoint = nn.Module | Mapping[str, Any]
"""A model, or a state dict: name -> tensor."""


def parameters_of(model: nn.Module, checkpoint: Checkpoint, what: str) -> dict[str, Tensor]:
    """The checkpoint's value of every parameter of the model, under the model's names.

    Raises:
        InputError: a name is missing or too many, a shape differs, or parameters that the model
            shares differ in the checkpoint; `what` names it.
    """
    state = checked_state(model, checkpoint, what)
    names: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        plain = _plain(name)
        if id(parameter) in names:
            first = names[id(parameter)]
            if not torch.equal(state[plain], state[first]):
                raise InputError(
                    f"{what}: {first!r} and {plain!r} are one parameter in the model and differ "
                    "here; untie them in the model"
                )
            continue
        names[id(parameter)] = plain
        found[plain] = state[plain]
    return found


def buffers_of(model: nn.Module, checkpoint: Checkpoint, what: str) -> dict[str, Tensor]:
    """The checkpoint's value of every buffer that the model stores."""
    state = checked_state(model, checkpoint, what)
    return {name: state[name] for name in stored_buffers(model)}


def stored_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of a model's state dict, by name."""
    stored = {_plain(name) for name in model.state_dict()}
    named = ((_plain(name), buffer) for name, buffer in model.named_buffers())
    return {name: buffer for name, buffer in named if name in stored}


def checked_state(model: nn.Module, checkpoint: Checkpoint, what: str) -> dict[str, Tensor]:
    """The checkpoint's tensors by name, which are those of the model.

    Raises:
        InputError: as `parameters_of` says.
    """
    if not isinstance(checkpoint, nn.Module | Mapping):
        raise InputError(f"{what}: {type(checkpoint).__name__}; give a model or a state dict")
    state = checkpoint.state_dict() if isinstance(checkpoint, nn.Module) else checkpoint
    theirs = {_plain(n): t.detach() for n, t in state.items() if isinstance(t, Tensor)}
    ours = {_plain(n): t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    missing, more = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    if missing:
        raise InputError(f"{what}: has no {_some(missing)}, which the model has")
    if more:
        raise InputError(f"{what}: has {_some(more)}, which the model has not")
    for name, tensor in ours.items():
        if theirs[name].shape != tensor.shape:
            raise InputError(
                f"{what}: {name!r} is {tuple(theirs[name].shape)}, the model's is "
                f"{tuple(tensor.shape)}"
            )
    return theirs


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return f"{first!r}" + (f" and {len(rest)} more" if rest else "")
