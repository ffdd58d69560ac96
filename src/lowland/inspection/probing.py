"""One forward pass over two examples, before anything is measured: what fits, what does not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, one_line
from lowland.core.memory import free_memory
from lowland.core.restore import preserved
from lowland.inspection.scripted import Scripted
from lowland.inspection.subject import Subject
from lowland.measure.blocks import eager, named_blocks
from lowland.measure.evaluation import device_of, outputs_of


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What two examples show.

    Attributes:
        shapes: block -> shape of what it returns for one example.
        outputs: shape of the network's output for one example; None if it is no tensor.
        finite: whether output and blocks are free of NaN and infinity.
        bytes_per_example: of the features of all blocks together, not pooled.
    """

    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[int, ...] | None
    finite: bool
    bytes_per_example: int

    @property
    def dimensions(self) -> set[int]:
        """How many axes the blocks' outputs have, that of examples counted."""
        return {len(shape) + 1 for shape in self.shapes.values()}


def probe(subject: Subject, batch: Any, blocks: Sequence[str]) -> Probe:
    """Run the network once on a small batch.

    Raises:
        InputError: it cannot read the batch.
    """
    inputs = batch[0] if isinstance(batch, list | tuple) else batch
    seen: dict[str, Tensor] = {}
    modules = named_blocks(subject.module)
    with preserved(subject.module), contextlib.ExitStack() as hooks:
        subject.module.eval()
        for name in blocks:
            hooks.callback(modules[name].register_forward_hook(_note(seen, name)).remove)
        output = _run(subject, inputs)
    tensors = [*seen.values(), *([output] if isinstance(output, Tensor) else [])]
    return Probe(
        shapes={name: tuple(value.shape[1:]) for name, value in seen.items()},
        outputs=tuple(output.shape[1:]) if isinstance(output, Tensor) else None,
        finite=all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()),
        bytes_per_example=sum(math.prod(v.shape[1:]) * v.element_size() for v in seen.values()),
    )


def _run(subject: Subject, inputs: Any) -> Any:
    device = device_of(subject.module)
    moved = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs
    if isinstance(moved, Tensor) and device is not None:
        moved = moved.to(device)
    try:
        with torch.no_grad(), eager(subject.module):
            return outputs_of(subject.module, moved)
    except InputError:
        raise
    except Exception as error:  # whatever a foreign network raises
        if isinstance(inputs, Tensor):
            shape = "x".join(map(str, inputs.shape[1:]))
            raise InputError(
                f"{subject.name} cannot read images of shape {shape} ({one_line(error)}): give "
                "--size, or --mean and --std with one number for each channel"
            ) from None
        raise InputError(f"{subject.name} cannot read the texts ({one_line(error)})") from None


def _note(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, list | tuple) and output else output
        if isinstance(first, Tensor) and first.ndim > 0:
            seen[name] = first.detach()

    return hook


def check_seen(subject: Subject, blocks: Sequence[str]) -> None:
    """Refuse blocks of a TorchScript program that cannot be looked into."""
    if not isinstance(subject.module, Scripted):
        return
    for name in blocks:
        if name not in subject.module.seen:
            there = ", ".join(subject.module.seen)
            can = f"use {there}" if there else "measure weights or loss instead"
            raise InputError(
                f"{subject.name} is a TorchScript program that does not call {name!r} itself, so "
                f"its output cannot be seen: {can}"
            )


def check_memory(subject: Subject, needed: int, n: int) -> None:
    """Refuse features that the machine's memory cannot hold, before the kernel ends the process."""
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"{subject.name}: features of {n} examples take {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free: use fewer --examples, fewer --blocks, or "
            "--spatial mean"
        )
