"""Which examples share a perturbation: those of a batch, exactly m, or all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure.evaluation import Batches, labelled, refuse_shuffled

Chunk = tuple[Any, Tensor]
"""(inputs, targets) of examples that go through the model together."""

GroupSize = int | Literal["batch"] | None
"""m: a number of examples; "batch" for batches as they come; None for all examples together."""


def groups(
    model: nn.Module, batches: Batches, m: GroupSize, examples: int | None = None
) -> Iterator[Iterable[Chunk]]:
    """Groups of examples, each as chunks that can be read again and again.

    With a whole number m every group has exactly m examples, whatever the sizes of the batches, but
    for the last, which has what is left. None gives one group, which reads the data anew each time
    and holds one batch; the others hold the examples of a group.

    Args:
        model: tells the device.
        batches: pairs (inputs, targets).
        m: how many examples share a perturbation.
        examples: the first so many alone; None for all.

    Raises:
        InputError: m or `examples` makes no sense, no examples, inputs that cannot be divided, or
            data that give other examples when they are read again.
    """
    check_groups(m, examples)
    if m is None:
        refuse_shuffled(batches)
        yield _Everything(model, batches, examples)
        return
    pairs = first(labelled(model, batches), examples)
    if m == "batch":
        yield from ([pair] for pair in pairs)
    else:
        yield from regrouped(pairs, m)


def check_groups(m: GroupSize, examples: int | None) -> None:
    """Raise `InputError` unless both make sense."""
    if m is not None and m != "batch" and not _positive(m):
        raise InputError(f"m: {m!r}; give a whole number from 1 on, 'batch', or None for all")
    if examples is not None and not _positive(examples):
        raise InputError(f"examples: {examples!r}; give a whole number from 1 on, or None for all")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class _Everything:
    model: nn.Module
    batches: Batches
    examples: int | None

    def __iter__(self) -> Iterator[Chunk]:
        return first(labelled(self.model, self.batches), self.examples)


def first(pairs: Iterable[Chunk], n: int | None) -> Iterator[Chunk]:
    """The pairs up to the n-th example, the last one cut to fit."""
    left = n
    for inputs, targets in pairs:
        if left is None or len(targets) <= left:
            yield inputs, targets
        else:
            yield _piece(inputs, targets, 0, left)
        if left is not None:
            left -= min(left, len(targets))
            if left == 0:
                return


def regrouped(pairs: Iterable[Chunk], m: int) -> Iterator[list[Chunk]]:
    """Lists of chunks with m examples each, in the order of the data; the last may have fewer."""
    held: list[Chunk] = []
    missing = m
    for inputs, targets in pairs:
        start = 0
        while start < len(targets):
            stop = min(start + missing, len(targets))
            held.append(_piece(inputs, targets, start, stop))
            missing -= stop - start
            start = stop
            if missing == 0:
                yield held
                held, missing = [], m
    if held:
        yield held


def _piece(inputs: Any, targets: Tensor, start: int, stop: int) -> Chunk:
    n = len(targets)
    whole = start == 0 and stop == n
    return (inputs if whole else _rows(inputs, start, stop, n)), targets[start:stop]


def _rows(inputs: Any, start: int, stop: int, n: int) -> Any:
    if isinstance(inputs, Tensor) and inputs.ndim and len(inputs) == n:
        return inputs[start:stop]
    if isinstance(inputs, Mapping):
        return {key: _rows(part, start, stop, n) for key, part in inputs.items()}
    if isinstance(inputs, list | tuple):
        return [_rows(part, start, stop, n) for part in inputs]
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
    raise InputError(
        f"batches: inputs {shape} cannot be divided among {n} examples; give batches of the size "
        "that you want and m='batch'"
    )
