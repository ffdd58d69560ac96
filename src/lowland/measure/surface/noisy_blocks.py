"""Multiplicative noise on the outputs of blocks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.selection import output_layer
from lowland.measure.blocks import named_blocks
from lowland.measure.surface.noise import standard_normal

PASSING_ON = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
"""Modules that, in eval mode, only pass on what they are given."""


def intermediate_blocks(model: nn.Module) -> list[str]:
    """Modules that compute something, apart from the output layer."""
    modules = named_blocks(model)
    linear = any(isinstance(module, nn.Linear) for module in modules.values())
    head = output_layer(model) if linear else None
    found = [
        name
        for name, module in modules.items()
        if not isinstance(module, PASSING_ON)
        and module is not head
        and (not module._modules or any(p is not None for p in module._parameters.values()))
    ]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no modules between its inputs and its outputs: name the "
            "ones to put noise on with blocks="
        )
    return found


class BlockNoise:
    """Hooks that multiply the outputs of blocks, but for the passes without noise.

    Attributes:
        draw: the number of the draw; None for none.
        dtype: the type of the outputs that had noise.
    """

    def __init__(self, names: Iterable[str], sigma: float, seed: int, *, choose: bool) -> None:
        self._names, self._sigma, self._seed = list(names), sigma, seed
        self._choose = choose  # leave out what makes the outputs or does not run
        self._first = self._size = 0
        self._calls: Counter[str] = Counter()
        self._outputs: dict[str, Any] = {}
        self._looked = False
        self.draw: int | None = None
        self.dtype = "float32"

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that have noise."""
        return tuple(self._names)

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Inside, the hooks are there."""
        modules = named_blocks(model)
        with contextlib.ExitStack() as hooks:
            for name in self._names:
                handle = modules[name].register_forward_hook(self._hook(name))
                hooks.callback(handle.remove)
            yield

    def next_batch(self, size: int) -> None:
        """The next `size` examples."""
        self._first, self._size = self._first + self._size, size

    def look(self, outputs: Any) -> None:
        """After a pass: in the first one, which blocks run and do not make the model's outputs."""
        self._calls.clear()
        if self._looked:
            return
        self._looked = True
        made = {id(t) for t in _tensors(outputs)}
        for name in self._names:
            if name not in self._outputs and not self._choose:
                raise InputError(f"block {name!r} does not run in a forward pass: leave it out")
        if self._choose:
            self._names = [
                name
                for name in self._names
                if name in self._outputs and id(self._outputs[name]) not in made
            ]
        self._outputs = {}
        if not self._names:
            raise InputError(
                "no module runs between inputs and outputs: name the ones to put noise on with "
                "blocks="
            )

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def noised(module: nn.Module, inputs: Any, output: Any) -> Any:
            call, self._calls[name] = self._calls[name], self._calls[name] + 1
            tensor = output[0] if isinstance(output, tuple) and output else output
            if not self._looked:
                self._outputs[name] = tensor
            if self.draw is None or name not in self._names:
                return None
            self._check_rows(name, tensor)
            out = self._times(tensor, name, call)
            if not isinstance(output, tuple):
                return out
            rest = (out, *output[1:])
            return type(output)(*rest) if hasattr(output, "_fields") else rest

        return noised

    def _times(self, tensor: Tensor, name: str, call: int) -> Tensor:
        rows = torch.arange(self._first, self._first + self._size, device=tensor.device)
        assert self.draw is not None
        address = ("activation noise", self._seed, self.draw, name, call)
        z = standard_normal(rows, tensor.shape[1:], *address)
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        return tensor * (1 + self._sigma * z).to(tensor.dtype)

    def _check_rows(self, name: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == self._size:
            if tensor.is_floating_point():
                return
            what = f"numbers of type {tensor.dtype}"
        else:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            what = f"{shape} for {self._size} examples"
        raise InputError(
            f"block {name!r} returns {what}: name blocks= that return real numbers with a row per "
            "example"
        )


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [t for value in outputs.values() for t in _tensors(value)]
    if isinstance(outputs, list | tuple):
        return [t for value in outputs for t in _tensors(value)]
    return []
