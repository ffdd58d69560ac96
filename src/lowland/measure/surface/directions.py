"""Directions in the space of weights: drawn, given, or towards another checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.seeds import generator
from lowland.core.selection import NORMALIZATION
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.balls import filter_norms
from lowland.measure.surface.checkpoints import Checkpoint, parameters_of

NORMALIZATIONS = ("filter", "layer", "none")
BIASES = ("ignore", "keep")


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction d in the space of weights.

    Attributes:
        steps: name of a parameter -> its part of d, shaped like it; what is missing does not move.
        words: where d comes from.
    """

    steps: Mapping[str, Tensor]
    words: str

    def parts(self, named: Mapping[str, Tensor]) -> list[Tensor | None]:
        """d for these parameters, on their devices, in their own type or float32.

        Raises:
            InputError: another shape, or a name that is not among them.
        """
        for name, step in self.steps.items():
            if name not in named:
                raise unknown("parameter of a direction", name, named)
            if step.shape != named[name].shape:
                raise InputError(
                    f"direction: {name!r} is {tuple(step.shape)}, the model's is "
                    f"{tuple(named[name].shape)}"
                )
        return [
            self.steps[name].detach().to(p.device, wide_dtype(p.dtype))
            if name in self.steps
            else None
            for name, p in named.items()
        ]


def random_direction(
    model: nn.Module,
    *,
    parameters: str | None = None,
    normalization: str = "filter",
    biases: str = "ignore",
    seed: int = 0,
    number: int = 0,
) -> Direction:
    """Independent N(0, 1) in every element, then scaled like the weights.

    "filter" (Li et al. 2018, arXiv 1712.09913): every entry d_f of the first axis of a tensor gets
    the norm of the weights there, ‖d_f‖ = ‖w_f‖; "layer": ‖d_l‖ = ‖w_l‖ for every tensor; "none":
    as drawn. What is zero in the weights is zero in d.

    Biases and the parameters of normalization layers (tensors with one axis, and whatever such
    layers own) are left where they are, as there; "keep" moves them too, each tensor scaled as a
    whole.

    Drawn in float64 on the CPU, tensor by tensor from seed, number and name: the same direction on
    every device, and a block's is its part of the whole model's.

    Args:
        model: the network, at w.
        parameters: glob over names of parameters and modules; None for all, frozen ones too.
        normalization: one of `NORMALIZATIONS`.
        biases: one of `BIASES`.
        seed, number: address of the draw: directions 0 and 1 of a plane, for example.

    Cost: a float64 copy of one tensor at a time, beside the direction.

    Raises:
        InputError: unknown options, no such parameters, or nothing left that moves.
    """
    check_scaling(normalization, biases)
    named = chosen_parameters(model, parameters, frozen=True)
    still = bias_parameters(model) if biases == "ignore" else set()
    steps = {
        name: _drawn(name, p.detach(), normalization, id(p) in bias_parameters(model), seed, number)
        for name, p in named.items()
        if id(p) not in still
    }
    if not steps:
        raise InputError(
            "parameters: biases and normalization parameters alone, which do not move; give "
            "biases='keep'"
        )
    scale = {"filter": "filter-normalized", "layer": "layer-normalized", "none": "not normalized"}
    ignored = ", biases and normalization parameters ignored" if still else ""
    return Direction(steps, f"Gaussian, {scale[normalization]}{ignored}")


def check_scaling(normalization: str, biases: str) -> None:
    """Raise `InputError` for unknown options."""
    if normalization not in NORMALIZATIONS:
        raise unknown("normalization", normalization, NORMALIZATIONS)
    if biases not in BIASES:
        raise unknown("biases", biases, BIASES)


def _drawn(
    name: str, weight: Tensor, normalization: str, bias: bool, seed: int, number: int
) -> Tensor:
    source = generator("cpu", "direction", seed, number, name)
    drawn = torch.randn(weight.shape, generator=source, dtype=torch.float64)
    if normalization != "none":
        norms = filter_norms if normalization == "filter" and not bias else _norm
        drawn *= norms(weight.cpu(), torch.float64) / norms(drawn, torch.float64)
    return drawn.to(weight.device, wide_dtype(weight.dtype))


def _norm(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return found


def bias_parameters(model: nn.Module) -> set[int]:
    """Parameters with at most one axis, and those of normalization layers."""
    found = {id(p) for p in model.parameters() if p.ndim < 2}
    for module in model.modules():
        if isinstance(module, NORMALIZATION):
            found.update(id(p) for p in module.parameters(recurse=False))
    return found


def direction_towards(
    model: nn.Module, checkpoint: Checkpoint, *, parameters: str | None = None
) -> Direction:
    """d = w' - w: at length 1 along it lies the checkpoint w'. Buffers have no part in it.

    Args:
        model: the network, at w.
        checkpoint: a model or a state dict, with the model's names and shapes.
        parameters: glob over names of parameters and modules; None for all.

    Raises:
        InputError: names or shapes that differ.
    """
    named = chosen_parameters(model, parameters, frozen=True)
    theirs = parameters_of(model, checkpoint, "checkpoint")
    steps = {
        name: theirs[name].to(p.device, wide_dtype(p.dtype)) - p.detach().to(wide_dtype(p.dtype))
        for name, p in named.items()
    }
    return Direction(steps, "towards a checkpoint")


def as_direction(model: nn.Module, given: Any, parameters: str | None = None) -> Direction:
    """A direction that was given: one already, a mapping by name, or a vector of all parameters.

    Args:
        model: the network.
        given: a `Direction`; name -> tensor; a flat tensor of all chosen parameters in the model's
            order, as an eigenvector of the Hessian is; or a list of tensors, one for each.
        parameters: glob, to which vectors and lists belong.

    Raises:
        InputError: none of these, or the wrong size.
    """
    if isinstance(given, Direction):
        return given
    if isinstance(given, Mapping):
        return Direction({n.replace("_orig_mod.", ""): t for n, t in given.items()}, "given")
    named = chosen_parameters(model, parameters, frozen=True)
    if isinstance(given, Tensor):
        sizes = [p.numel() for p in named.values()]
        if given.ndim != 1 or len(given) != sum(sizes):
            raise InputError(
                f"direction: {tuple(given.shape)}; the chosen parameters are ({sum(sizes)},)"
            )
        parts = torch.split(given, sizes)
        return Direction(
            {n: t.view_as(p) for (n, p), t in zip(named.items(), parts, strict=True)}, "given"
        )
    if isinstance(given, list | tuple) and all(isinstance(t, Tensor) for t in given):
        if len(given) != len(named):
            raise InputError(f"direction: {len(given)} tensors for {len(named)} chosen parameters")
        return Direction(dict(zip(named, given, strict=True)), "given")
    raise InputError(
        f"direction: {type(given).__name__}; give a Direction, name -> tensor, a flat vector or a "
        "list of tensors"
    )


Parts = Sequence[Tensor | None]


def dot(left: Parts, right: Parts) -> float:
    """⟨a, b⟩ over all tensors together, in float64, a million elements at a time."""
    return math.fsum(
        float(a.double() @ b.double())
        for one, other in zip(left, right, strict=True)
        if one is not None and other is not None
        for a, b in zip(_slices(one), _slices(other), strict=True)
    )


def squared_distance(left: Parts, right: Parts) -> float:
    """‖a - b‖² over all tensors together, as `dot`."""
    return math.fsum(
        float((a.double() - b.double()).square().sum())
        for one, other in zip(left, right, strict=True)
        if one is not None and other is not None
        for a, b in zip(_slices(one), _slices(other), strict=True)
    )


def _slices(tensor: Tensor) -> tuple[Tensor, ...]:
    return torch.split(tensor.reshape(-1), 1_000_000)


def orthogonal_to(parts: Parts, other: Parts) -> list[Tensor | None]:
    """d - (⟨d, e⟩/⟨e, e⟩)·e. Where d was scaled by filters it is not exactly so after."""
    square = dot(other, other)
    share = dot(parts, other) / square if square > 0 else 0.0
    found: list[Tensor | None] = []
    for part, along in zip(parts, other, strict=True):
        if along is None:
            found.append(part)
        else:
            found.append(-share * along if part is None else part - share * along)
    return found
