"""Running a model and a loss over batches, with every example counted once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lowland.core.errors import InputError

Loss = Callable[[Any, Tensor], Tensor]
"""(outputs, targets) -> losses (b,), one per example, or their mean, a single number.

A mean that is weighted, by class weights or without ignored targets, is one for a single batch only
(see `SameDivisor`).
"""

Batches = Iterable[Any]
"""Pairs (inputs, targets), as a data loader gives them, or mappings from arguments to tensors.

The inputs of a model are a tensor, or a mapping that is passed by name (``model(**inputs)``), as
tokenizers make them: ``input_ids``, ``attention_mask``, ... A batch that is one mapping has its
targets, if it has any, under ``labels``.
"""

LABELS = "labels"
"""Where a batch that is one mapping has its targets."""


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the model's first parameter or buffer; None if it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """``model(**inputs)`` if they are a mapping, else ``model(inputs)``."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def labelled(model: nn.Module, batches: Batches) -> Iterator[tuple[Any, Tensor]]:
    """The batches (inputs, targets) that hold examples, on the model's device.

    Raises:
        InputError: a batch that is no such pair, or no examples at all.
    """
    device = device_of(model)
    empty = True
    for batch in batches:
        if isinstance(batch, Mapping) and LABELS in batch:
            batch = ({k: v for k, v in batch.items() if k != LABELS}, batch[LABELS])
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise InputError(
                f"batches: got {type(batch).__name__}; each batch must be a pair (inputs, targets)"
            )
        inputs, targets = (_on(device, part) for part in batch)
        if not isinstance(targets, Tensor) or targets.ndim == 0:
            raise InputError("batches: targets must be a tensor with one entry per example")
        if len(targets) > 0:
            empty = False
            yield inputs, targets
    if empty:
        raise InputError("batches: no examples; an iterator that was read before has none left")


def inputs_only(model: nn.Module, batches: Batches) -> Iterator[Any]:
    """The inputs of each batch, whether or not targets come with them, on the model's device.

    The labels of a batch that is one mapping stay with it only where the model takes such an
    argument: some make their decoder's inputs of them.
    """
    device = device_of(model)
    for batch in batches:
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        if isinstance(inputs, Mapping) and LABELS in inputs and not _takes(model, LABELS):
            inputs = {name: part for name, part in inputs.items() if name != LABELS}
        yield _on(device, inputs)


def _takes(model: nn.Module, argument: str) -> bool:
    """Whether the model, or the one that it wraps, can be called with an argument of this name."""
    while isinstance(
        inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module
    ):
        model = inner
    known = inspect.signature(model.forward).parameters.values()
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in known)


def _on(device: torch.device | None, part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: _on(device, value) for name, value in part.items()}
    return part.to(device) if device is not None and isinstance(part, Tensor) else part


def refuse_shuffled(batches: Batches) -> None:
    """Raise `InputError` for a loader that shuffles, or an iterator that can be read only once."""
    if isinstance(batches, Iterator):
        raise InputError(
            "batches: an iterator can be read only once; give a list of batches or a data loader"
        )
    if any(map(_shuffles, _samplers(batches))):
        raise InputError(
            "batches: the data loader shuffles, so that rows would match neither labels nor a "
            "second pass; give it shuffle=False"
        )


def _samplers(loader: Any) -> Iterator[Any]:
    """What decides on the order: of examples or of batches, and what those are built on."""
    waiting, seen = [loader], [loader]
    while waiting:
        holder = waiting.pop()
        for name in ("sampler", "batch_sampler"):
            found = getattr(holder, name, None)
            if found is not None and not any(found is other for other in seen):
                yield found
                waiting.append(found)
                seen.append(found)


def _shuffles(sampler: Any) -> bool:
    random = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    said = getattr(sampler, "shuffle", False)
    return isinstance(sampler, random) or (bool(said) and not callable(said))


def refuse_batch_statistics(model: nn.Module) -> None:
    """Raise `InputError` if an example's loss depends on the examples beside it in the batch.

    That is so for BatchNorm that uses the batch's statistics: in train mode, or without running
    statistics. Such a loss is no mean over examples, and batches of other sizes give another one.
    Called where the model is in the mode that it is measured in.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise InputError(
                f"model: BatchNorm {name!r} uses the statistics of each batch, so that the loss is "
                "no mean over examples; measure in eval mode, with running statistics"
            )


def losses(loss_fn: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """The losses of a batch: (b,) if `loss_fn` gives one per example, else () for their mean.

    Raises:
        InputError: the loss is a sum, or of any other shape.
    """
    if getattr(loss_fn, "reduction", None) == "sum":
        raise InputError("loss_fn: it sums over the batch; give reduction='mean' or 'none'")
    found = loss_fn(outputs, targets)
    if not isinstance(found, Tensor) or tuple(found.shape) not in ((), (len(targets),)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"loss_fn: returned {shape} for {len(targets)} examples; return their mean, or one "
            "loss per example"
        )
    return found


class SameDivisor:
    """Looks at batch after batch whether their mean losses add up to a mean over all examples.

    Those of torch's cross-entropy with class weights, or with targets that are ignored, do not:
    each is divided by the weights of its own batch. One batch alone may have any mean.
    """

    def __init__(self, loss_fn: Loss) -> None:
        self._loss_fn = loss_fn
        self._batches, self._own = 0, False

    def see(self, targets: Tensor) -> None:
        """One more batch.

        Raises:
            InputError: it is not the only one, and one of them is divided by its own weights.
        """
        self._batches += 1
        self._own = self._own or _own_divisor(self._loss_fn, targets)
        if self._own and self._batches > 1:
            raise InputError(
                "loss_fn: its mean is divided by the class weights, or the targets not ignored, of "
                "each batch, so that batches add up to no mean over examples; give losses (b,), as "
                "reduction='none' does, or all examples in one batch"
            )


def _own_divisor(loss_fn: Loss, targets: Tensor) -> bool:
    if targets.is_floating_point() or targets.is_complex():
        return False
    if loss_fn in (functional.cross_entropy, functional.nll_loss):
        return bool((targets == -100).any())
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or loss_fn.reduction != "mean":
        return False
    return loss_fn.weight is not None or bool((targets == loss_fn.ignore_index).any())
