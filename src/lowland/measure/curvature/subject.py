"""What is differentiated: a loss of a model on data, by some of its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.perturbation import HALF
from lowland.measure.blocks import eager
from lowland.measure.curvature.differentiable import twice_differentiable
from lowland.measure.curvature.flat import Layout
from lowland.measure.evaluation import (
    Batches,
    Loss,
    device_of,
    labelled,
    outputs_of,
    refuse_batch_statistics,
)
from lowland.measure.parameters import chosen_parameters

Matrix = Literal["hessian", "ggn"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model ready to be differentiated twice, with its loss and data.

    Attributes:
        model: in eval mode; only the chosen weights require gradients.
        loss_fn: (outputs, targets) -> losses (b,) or their mean.
        batches: the data.
        weights: the chosen parameters by their names in the model.
        layout: of the weights in one vector.
        dtype: floating-point data are cast to this; None leaves them as they are.
    """

    model: nn.Module
    loss_fn: Loss
    batches: Batches
    weights: dict[str, nn.Parameter]
    layout: Layout
    dtype: torch.dtype | None

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """The batches (inputs, targets), on the model's device."""
        for inputs, targets in labelled(self.model, self.batches):
            yield _cast(inputs, self.dtype), _cast(targets, self.dtype)

    def outputs(self, inputs: Any) -> Any:
        """The model's outputs, by its own code even where it has been compiled."""
        with eager(self.model):
            return outputs_of(self.model, inputs)


@contextlib.contextmanager
def differentiable(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    parameters: str | None,
    dtype: torch.dtype | None,
) -> Iterator[Subject]:
    """Inside, the model is in eval mode, of one type, and only the chosen weights are free.

    Nothing is put back: this belongs inside `preserved`.

    Args:
        model: the network.
        loss_fn: as everywhere.
        batches: as everywhere.
        parameters: glob; None for all that require gradients.
        dtype: floating-point type of model and data; None for the model's own, but float32
            where parameters are of a half type.

    Raises:
        InputError: complex weights, or a type that is not floating-point.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype: {dtype} is no floating-point type; give torch.float64, say")
    device = device_of(model) or torch.device("cpu")
    with twice_differentiable(model, device):
        model.eval()
        refuse_batch_statistics(model)
        chosen = chosen_parameters(model, parameters)
        for name, parameter in chosen.items():
            if parameter.is_complex():
                raise InputError(f"parameters: {name!r} is complex; choose real ones")
        if dtype is None and any(p.dtype in HALF for p in model.parameters()):
            dtype = torch.float32
        if dtype is not None:
            model.to(dtype)
        inside = {id(p) for p in chosen.values()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in inside)
        raw = {name: p for name, p in model.named_parameters() if id(p) in inside}
        yield Subject(model, loss_fn, batches, raw, Layout.of(chosen), dtype)


def _cast(part: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(part, dict):
        return {name: _cast(value, dtype) for name, value in part.items()}
    if dtype is None or not isinstance(part, Tensor) or not part.is_floating_point():
        return part
    return part.to(dtype)
