"""BatchNorm's running statistics for weights that were never trained: estimated anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowland.core.errors import InputError
from lowland.measure.evaluation import Batches, labelled, outputs_of


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    found = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return [m for m in found if m.running_mean is not None]


def reestimate(model: nn.Module, batches: Batches) -> None:
    """Set running means and variances to the mean over all examples of those of their batches.

    One forward pass over the data, BatchNorm with the statistics of each batch, the rest of the
    model in the mode it is in. Batches weigh by their examples, so that a short last one counts for
    what it is. The result depends on how the data are cut, as training does: it is not the
    statistic of all examples at once.

    Overwrites buffers: be inside `lowland.core.restore.preserved`.

    Raises:
        InputError: a batch with a single value per channel, which has no variance.
    """
    layers = batch_norms(model)
    if not layers:
        return
    for layer in layers:
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None:
                buffer.data.zero_()  # the first batch replaces it, and 0·NaN would stay NaN
    n = 0
    with learning(layers), torch.no_grad():
        for inputs, targets in labelled(model, batches):
            n += len(targets)
            for layer in layers:
                layer.momentum = len(targets) / n
            outputs_of(model, inputs)


@contextlib.contextmanager
def learning(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Inside, the layers use and learn the statistics of batches; after, they are as they were.

    Raises:
        InputError: a batch with a single value per channel, which has no variance.
    """
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    try:
        for layer, _, _ in before:
            layer.training = True
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batches: a batch of one example has no variance for BatchNorm to use; leave it out, "
            "or keep the statistics with batch_norm='keep'"
        ) from None
    finally:
        for layer, momentum, training in before:
            layer.momentum, layer.training = momentum, training
