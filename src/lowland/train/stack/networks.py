"""Networks of one architecture as one: every parameter gets a leading axis of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lowland.core.errors import InputError

ROWS = 16_384
"""Rows, networks times examples, that are looked at together without gradients."""

_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


class Stack:
    """K networks of one architecture.

    Attributes:
        parameters: name -> (K, ...), the parameters of all; changed in place by training.
        size: K.

    Args:
        modules: the networks, each at its own initialisation. They are copied, not kept.

    Raises:
        InputError: there are none; they differ in their layers or in a parameter's name, shape or
            dtype; a parameter is frozen, since all are trained; or one has buffers or draws random
            numbers, as such networks depend on more than parameters and inputs. Layers are told
            apart by what they print: a custom module has to say in ``extra_repr`` what it has of
            its own.

    >>> nets = Stack([nn.Linear(3, 2) for _ in range(4)])
    >>> nets(torch.zeros(5, 3)).shape
    torch.Size([4, 5, 2])
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        _check(modules)
        self._template = copy.deepcopy(modules[0]).eval()
        states = [dict(module.named_parameters()) for module in modules]
        self.parameters: dict[str, Tensor] = {
            name: torch.stack([state[name].detach() for state in states]) for name in states[0]
        }

    @property
    def size(self) -> int:
        """K."""
        return len(next(iter(self.parameters.values())))

    @property
    def parameter_count(self) -> int:
        """Parameters of one network."""
        return sum(p[0].numel() for p in self.parameters.values())

    def to(self, device: torch.device | str) -> Stack:
        """Move all parameters, in place."""
        self._template.to(device)
        self.parameters = {name: p.to(device) for name, p in self.parameters.items()}
        return self

    def call(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        *,
        shared: bool,
        method: str | None = None,
    ) -> Any:
        """What the networks give with these parameters, of which there may be fewer than K.

        Args:
            parameters: name -> (k, ...).
            inputs: (n, ...) for all if `shared`, else (k, n, ...).
            shared: whether all see the same inputs.
            method: a method of the networks, called in place of them.
        """
        template = self._template if method is None else _Method(self._template, method)
        prefix = "" if method is None else "module."

        def one(own: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(template, {prefix + name: p for name, p in own.items()}, (x,))

        return vmap(one, in_dims=(0, None if shared else 0))(dict(parameters), inputs)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, *, method: str | None = None) -> Tensor:
        """Outputs (K, n, ...), without gradients.

        Args:
            inputs: (n, ...), the same for all networks.
            method: a method of the networks, for example ``"features"``, in place of their outputs.
        """
        rows = max(1, ROWS // self.size)
        parts = [
            self.call(self.parameters, part, shared=True, method=method)
            for part in torch.split(inputs, rows)
        ]
        return torch.cat(parts, dim=1)

    def member(self, k: int) -> nn.Module:
        """A copy of network `k`, in eval mode."""
        module = copy.deepcopy(self._template)
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(self.parameters[name][k])
        return module


class _Method(nn.Module):
    """A module whose forward is a method of another."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self._call: Callable[..., Any] = getattr(module, name)

    def forward(self, x: Tensor) -> Any:
        return self._call(x)


def _check(modules: Sequence[nn.Module]) -> None:
    if not modules:
        raise InputError("a stack needs at least one network")
    first, *others = modules
    shapes = _parameters(first)
    if not shapes:
        raise InputError(f"{type(first).__name__} has no parameters: nothing to stack")
    for k, other in enumerate(others, start=1):
        if different := set(_parameters(other).items()) ^ set(shapes.items()):
            name = min(name for name, _ in different)
            raise InputError(f"network {k} differs from network 0 in {name}: stack equal ones")
        if repr(other) != repr(first):
            raise InputError(
                f"network {k} has the parameters of network 0 but other layers: stack equal ones"
            )
    for k, network in enumerate(modules):
        for name, p in network.named_parameters():
            if not p.requires_grad:
                raise InputError(
                    f"{name} of network {k} is frozen, and a stack trains all parameters: let it "
                    "require gradients, or train the network by a recipe"
                )
        for module in network.modules():
            if next(module.buffers(recurse=False), None) is not None or _random(module):
                raise InputError(
                    f"{type(module).__name__} has buffers or draws random numbers: networks of a "
                    "stack depend on parameters and inputs alone; train it by a recipe"
                )


def _parameters(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(p.shape), p.dtype) for name, p in module.named_parameters()}


def _random(module: nn.Module) -> bool:
    """Whether it draws random numbers in training; LSTMs and attention have their own dropout."""
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, _RANDOM)
