"""One forward pass through a block, written down: which module ran when, on what, giving what."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure.features.taps import first_given, first_tensor

Key = tuple[int, int] | None
"""Memory and version of a tensor: the same for its views, another after an operation in place."""

_NORM = re.compile("norm|^ln$", re.IGNORECASE)


@dataclass(eq=False)
class Run:
    """One run of one module inside a block.

    Attributes:
        name: of the module in the model.
        module: the module.
        depth: 0 for the block itself, 1 for what it calls, and so on.
        number: which run of this module it is, from 0.
        start: when it began, in order of events.
        end: when it ended.
        given: a copy of its first tensor, and `given_key`.
        made: a copy of the first tensor it returned, and `made_key`.
    """

    name: str
    module: nn.Module
    depth: int
    number: int
    start: int
    end: int = -1
    given: Tensor | None = None
    given_key: Key = None
    made: Tensor | None = None
    made_key: Key = None

    @property
    def child(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """The name of the class."""
        return type(self.module).__name__

    @property
    def is_leaf(self) -> bool:
        """No modules inside."""
        return next(self.module.children(), None) is None

    @property
    def is_norm(self) -> bool:
        """A normalisation layer, by the name of its class."""
        return self.is_leaf and _NORM.search(self.kind) is not None

    @property
    def is_linear(self) -> bool:
        """A layer with a matrix of weights."""
        weight = getattr(self.module, "weight", None)
        return isinstance(weight, Tensor) and weight.ndim == 2


class Trace:
    """Hooks on a block and all that is in it, and what they saw.

    Every tensor is kept until the trace is dropped, so that memory is not used again and `Key`
    tells tensors apart. Meant for one or two examples.
    """

    def __init__(self, name: str, block: nn.Module, hooks: contextlib.ExitStack) -> None:
        self.runs: list[Run] = []
        self._name = name
        self._open: list[Run] = []
        self._kept: list[Tensor] = []
        self._clock = 0
        block = getattr(block, "_orig_mod", block)
        for inner, module in block.named_modules():
            full = f"{name}.{inner}".replace("_orig_mod.", "") if inner else name
            before = module.register_forward_pre_hook(self._before(full), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(module.register_forward_hook(self._after()).remove)

    def whole(self) -> Run:
        """The run of the block itself."""
        whole = [run for run in self.runs if run.depth == 0]
        if len(whole) != 1:
            raise InputError(
                f"block {self._name!r} ran {len(whole)} times in a forward pass; choose one that "
                "runs once"
            )
        return whole[0]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            number = sum(run.module is module for run in self.runs)
            run = Run(name, module, len(self._open), number, self._tick())
            given = first_given(args, kwargs)
            if given is not None:
                run.given, run.given_key = self._noted(given)
            self.runs.append(run)
            self._open.append(run)

        return hook

    def _after(self) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            run = self._open.pop()
            run.end = self._tick()
            made = first_tensor(output)
            if made is not None:
                run.made, run.made_key = self._noted(made)

        return hook

    def _noted(self, tensor: Tensor) -> tuple[Tensor, Key]:
        """Its value now, for it may change in place, and its key."""
        self._kept.append(tensor)
        return tensor.detach().clone(), _key(tensor)


def _key(tensor: Tensor) -> Key:
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.untyped_storage().data_ptr(), version
