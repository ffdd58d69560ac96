"""Where features are caught: the input or the output of a module, copied as it passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure.features.positions import Positions, mask_of

Side = Literal["input", "output"]


@dataclass(frozen=True, eq=False)
class Tap:
    """One tensor of every forward pass.

    Attributes:
        name: of the module, as messages have it.
        module: the module.
        side: what it is given or what it returns.
        run: which of its runs in a forward pass, from 0.
        runs: how often it runs in a forward pass.
    """

    name: str
    module: nn.Module
    side: Side = "output"
    run: int = 0
    runs: int = 1

    def __str__(self) -> str:
        again = f" in run {self.run + 1} of {self.runs}" if self.runs > 1 else ""
        return f"{self.side} of {self.name!r}{again}"

    @property
    def key(self) -> tuple[int, str, int]:
        """The same for two taps that give the same tensor."""
        return id(self.module), self.side, self.run


@dataclass(frozen=True, eq=False)
class Stream:
    """What one name stands for: a tap, or the difference of two."""

    tap: Tap
    minus: Tap | None = None

    def __str__(self) -> str:
        return str(self.tap) if self.minus is None else f"{self.tap} minus {self.minus}"


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first entry of a tuple, list or mapping if that is a tensor.

    Blocks that return several things, as those of transformers do, return the hidden state first.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def first_given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Of what a module is called with the first tensor of floating type, else the first tensor."""
    tensors = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
    floating = [part for part in tensors if part.is_floating_point()]
    return next(iter(floating or tensors), None)


class Catcher:
    """Rows of all taps, forward pass by forward pass."""

    def __init__(self, streams: Mapping[str, Stream], positions: Positions) -> None:
        taps = [t for s in streams.values() for t in (s.tap, s.minus) if t is not None]
        self._streams = streams
        self._positions = positions
        self._taps = list({tap.key: tap for tap in taps}.values())
        self._runs: dict[int, int] = {}
        self._rows: dict[tuple[int, str, int], Tensor] = {}
        self._dimensions: set[int] = set()
        self._size: int | None = None
        self._mask: Tensor | None = None

    def attach(self, hooks: contextlib.ExitStack) -> None:
        """Hook the modules until `hooks` is closed."""
        for tap in self._taps:
            if tap.side == "input":
                before = tap.module.register_forward_pre_hook(self._before(tap), with_kwargs=True)
                hooks.callback(before.remove)
            else:
                hooks.callback(tap.module.register_forward_hook(self._after(tap)).remove)

    def begin(self, inputs: Any) -> None:
        """Forget the last forward pass; the next one is of these inputs."""
        self._rows.clear()
        self._runs = dict.fromkeys(range(len(self._taps)), 0)
        self._size = _size_of(inputs)
        self._mask = mask_of(inputs)

    def rows(self) -> dict[str, Tensor]:
        """What each name stands for in the forward pass that has just ended."""
        for number, tap in enumerate(self._taps):
            if self._runs[number] != tap.runs:
                raise InputError(
                    f"block {tap.name!r} ran {self._runs[number]} times in a forward pass; choose "
                    "one that runs once"
                )
        if not self._positions.applies(self._dimensions):
            raise InputError(
                f"tokens={self._positions.tokens!r} is for outputs (b, tokens, d), "
                f"spatial={self._positions.spatial!r} and channels_last for (b, c, h, w): no block "
                "gives such; leave the option out"
            )
        return {name: self._of(stream) for name, stream in self._streams.items()}

    def _of(self, stream: Stream) -> Tensor:
        rows = self._rows[stream.tap.key]
        if stream.minus is None:
            return rows
        return rows - self._rows[stream.minus.key].reshape(rows.shape)

    def _before(self, tap: Tap) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._catch(tap, first_given(args, kwargs), "is given")

        return hook

    def _after(self, tap: Tap) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            self._catch(tap, tensor, f"returns {type(output).__name__}")

        return hook

    def _catch(self, tap: Tap, tensor: Tensor | None, what: str) -> None:
        """Copy the rows at once: an operation in place further on would change them."""
        number = self._taps.index(tap)
        self._runs[number] += 1
        if self._runs[number] != tap.run + 1:
            return
        if tensor is None:
            raise InputError(
                f"block {tap.name!r} {what}, no tensor first; choose one that returns a tensor, or "
                "a tuple that begins with one"
            )
        _check_rows(tap, tensor, self._size)
        self._dimensions.add(tensor.ndim)
        self._rows[tap.key] = self._positions.rows(tap.name, tensor.detach(), self._mask)


def _size_of(inputs: Any) -> int | None:
    """The number of examples, where that can be told."""
    parts: Iterable[Any] = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
    tensors = [part for part in parts if isinstance(part, Tensor) and part.ndim > 0]
    return len(tensors[0]) if tensors else None


def _check_rows(tap: Tap, tensor: Tensor, size: int | None) -> None:
    shape = tuple(tensor.shape)
    if tensor.ndim == 0 or (size is not None and len(tensor) != size):
        returns = "returns" if tap.side == "output" else "is given"
        raise InputError(
            f"block {tap.name!r} {returns} shape {shape} for {size} examples; choose one with a "
            "row per example"
        )
    first = [getattr(module, "batch_first", True) for module in tap.module.modules()]
    if tensor.ndim == 3 and shape[0] == shape[1] and not all(first):
        raise InputError(
            f"block {tap.name!r} has batch_first=False and shape {shape}, so that examples cannot "
            "be told from positions; build it with batch_first=True, or use other batches"
        )
