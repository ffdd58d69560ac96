"""Features of a model's blocks, caught where they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.restore import preserved
from lowland.measure.blocks import eager, matching_blocks, named_blocks
from lowland.measure.evaluation import Batches, inputs_only, refuse_shuffled


def capture(
    model: nn.Module, batches: Batches, blocks: str = "block*", *, device: str = "cpu"
) -> dict[str, Tensor]:
    """The outputs of blocks on all examples: block name -> features (n, d), flattened per example.

    Eval mode, no gradients, rows in the order of the data, in the type that the model computes in.
    Outputs are copied at once, so that an in-place operation further on does not change them.

    Args:
        model: called as ``model(inputs)``; left exactly as it was.
        batches: inputs, or tuples that begin with them; not shuffled.
        blocks: glob over the names of `model.named_modules()`; commas separate several. Stars stay
            within one level: ``block*`` is block1 and block2, not block1.conv1.
        device: where to gather the features.

    Cost: one forward pass; n·d numbers per block and, for a moment, those of one block twice.

    Raises:
        InputError: no such block, a shuffling loader, no examples, or a block whose output is not
            one tensor with a row per example, made once per forward pass.
    """
    refuse_shuffled(batches)
    names = matching_blocks(model, blocks)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with contextlib.closing(_outputs(model, batches, names)) as outputs:
        for output in outputs:
            for name, rows in output.items():
                found[name].append(rows.to(device))
    if not found[names[0]]:
        raise InputError("batches: no examples; give at least one batch")
    return {name: torch.cat(found.pop(name)) for name in names}


def stream(model: nn.Module, batches: Batches, block: str) -> Callable[[], Iterator[Tensor]]:
    """The outputs of one block as a function that returns a fresh iterator of chunks (b, d).

    For `feature_rank` and `active_units`, when the features of all examples do not fit in memory:
    every call runs the model over `batches` again. While an iterator is open the model is in eval
    mode; it is put back when the iterator ends or is closed.

    Args:
        model: as for `capture`.
        batches: as for `capture`; a list or a data loader, that can be read many times.
        block: name of a module, or a glob that matches one.

    Raises:
        InputError: no block or several; otherwise as `capture`.
    """
    refuse_shuffled(batches)
    names = matching_blocks(model, block)
    if len(names) > 1:
        raise InputError(f"block: {block!r} matches {', '.join(names)}; name one of them")

    def chunks() -> Iterator[Tensor]:
        with contextlib.closing(_outputs(model, batches, names)) as outputs:
            for output in outputs:
                yield output[names[0]]

    return chunks


def _outputs(
    model: nn.Module, batches: Batches, names: list[str]
) -> Generator[dict[str, Tensor], None, None]:
    """For each batch the named modules' outputs (b, d); the model is preserved around all of it."""
    modules = named_blocks(model)
    seen: dict[str, list[Any]] = {name: [] for name in names}
    with preserved(model), contextlib.ExitStack() as hooks:
        model.eval()
        for name in names:
            handle = modules[name].register_forward_hook(_catcher(seen[name]))
            hooks.callback(handle.remove)
        for inputs in inputs_only(model, batches):
            with torch.no_grad(), eager(model):
                model(inputs)
            size = len(inputs) if isinstance(inputs, Tensor) else None
            yield {name: _only(name, seen[name], size) for name in names}
            for outputs in seen.values():
                outputs.clear()


def _catcher(seen: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output.detach().clone() if isinstance(output, Tensor) else output)

    return hook


def _only(name: str, outputs: list[Any], size: int | None) -> Tensor:
    if len(outputs) != 1:
        raise InputError(
            f"block {name!r} ran {len(outputs)} times in a forward pass; choose one that runs once"
        )
    output = outputs[0]
    if not isinstance(output, Tensor):
        raise InputError(
            f"block {name!r} returns {type(output).__name__}; choose one that returns one tensor"
        )
    if output.ndim == 0 or (size is not None and len(output) != size):
        raise InputError(
            f"block {name!r} returns shape {tuple(output.shape)} for {size} examples; choose one "
            "with a row per example"
        )
    return output.flatten(1) if output.ndim > 1 else output[:, None]
