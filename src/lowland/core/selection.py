"""Choosing modules and parameters: by a glob over their names, or by the role they play."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lowland.core.errors import InputError, unknown

NORMALIZATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)
"""Module classes that count as normalization layers (BatchNorm, InstanceNorm, LayerNorm, ...)."""


def match_names(glob: str, names: Iterable[str], kind: str = "block") -> list[str]:
    """The names that `glob` matches, in their own order (``*``, ``?``, ``[...]``; commas separate).

    Raises:
        InputError: nothing matches; the nearest name is given.

    >>> match_names("block[13]", ["stem", "block1", "block2", "block3"])
    ['block1', 'block3']
    """
    names = list(names)
    patterns = [part.strip() for part in glob.split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise unknown(kind, pattern, names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def normalization_parameters(
    model: nn.Module, classes: tuple[type[nn.Module], ...] = ()
) -> list[nn.Parameter]:
    """Scale and shift of every normalization layer, found by module type, never by name.

    Args:
        model: the network.
        classes: further module classes to count as normalization.

    Raises:
        InputError: the model has none.
    """
    kinds = (*NORMALIZATION, *classes)
    found: dict[nn.Parameter, None] = {}
    for module in model.modules():
        if isinstance(module, kinds):
            found.update(dict.fromkeys(module.parameters(recurse=False)))
    if not found:
        raise InputError(
            f"{type(model).__name__} has no normalization layer with parameters: "
            "name its classes, or select other parameters"
        )
    return list(found)


def output_layer(model: nn.Module, name: str | None = None) -> nn.Linear:
    """The linear layer that makes the outputs.

    Args:
        model: the network.
        name: its name; None takes the last ``nn.Linear`` in the order of definition.

    Raises:
        InputError: there is none, or `name` is not one.
    """
    linear = {key: m for key, m in model.named_modules() if isinstance(m, nn.Linear)}
    if not linear:
        raise InputError(
            f"{type(model).__name__} has no linear layer to take as its output layer: select "
            "parameters by name instead"
        )
    if name is None:
        return list(linear.values())[-1]
    if name not in linear:
        raise unknown("linear layer", name, linear)
    return linear[name]
