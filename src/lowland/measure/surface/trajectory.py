"""The plane in which a run of training moved: principal components of its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.checkpoints import Checkpoint, parameters_of
from lowland.measure.surface.directions import BIASES, Direction, bias_parameters

CENTER = ("mean", "none")


@dataclass(frozen=True, kw_only=True)
class TrajectoryDirections(Measurement):
    """Two orthonormal directions; `value` is the share of the variance that they explain (`n` is 0:
    no examples are involved).

    Attributes:
        explained: share of the variance of the checkpoints along each direction.
        captured: share of Σ‖w_i - w‖² that lies in the plane through w.
        coordinates: for each checkpoint, where it falls on the plane, as (a, b).
        checkpoints: how many.
        center: "mean" or "none".
        directions: for `loss_plane`; not in `to_dict`.
    """

    explained: tuple[float, float]
    captured: float
    coordinates: tuple[tuple[float, float], ...]
    checkpoints: int
    center: str
    directions: tuple[Direction, Direction] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python values, without the directions themselves."""
        return {name: value for name, value in super().to_dict().items() if name != "directions"}


def trajectory_directions(
    model: nn.Module,
    checkpoints: Sequence[Checkpoint],
    *,
    parameters: str | None = None,
    center: str = "mean",
    biases: str = "keep",
) -> TrajectoryDirections:
    """The two principal components of the differences w_i - w, from their T×T Gram matrix.

    That is how Li et al. 2018 (arXiv 1712.09913) draw a run: w is the last checkpoint, in the
    model, and w_i the ones before. The plane for `loss_plane` goes through w.

    Args:
        model: the network, at w; it is not changed.
        checkpoints: models or state dicts, at least two.
        parameters: glob over names of parameters and modules; None for all.
        center: "mean" takes the mean difference away first, as principal component analysis does;
            "none" gives the plane through w that has most of Σ‖w_i - w‖².
        biases: "keep", or "ignore" for biases and normalization parameters.

    Cost: 2·T²·P operations in float64; T float64 copies of the largest tensor, two of the model.

    Raises:
        InputError: fewer than two checkpoints, all on a line, other names or shapes, or numbers
            that are not finite.
    """
    start = time.perf_counter()
    for name, value, known in (("center", center, CENTER), ("biases", biases, BIASES)):
        if value not in known:
            raise unknown(name, value, known)
    if len(checkpoints) < 2:
        raise InputError(f"checkpoints: {len(checkpoints)}; a plane needs at least two")
    named = chosen_parameters(model, parameters, frozen=True)
    if biases == "ignore":
        still = bias_parameters(model)
        named = {name: p for name, p in named.items() if id(p) not in still}
    states = [parameters_of(model, c, f"checkpoint {i}") for i, c in enumerate(checkpoints)]
    gram = sum(
        (rows @ rows.T for rows in (_rows(n, p, states) for n, p in named.items())),
        start=torch.zeros((), dtype=torch.float64),
    ).numpy()
    if not np.isfinite(gram).all():
        raise InputError("checkpoints: weights that are not finite; leave diverged ones out")
    mixtures, explained = _components(gram, center, _rounding(named.values(), len(states)))
    at = gram @ mixtures
    steps = [_mixed(column, named, states) for column in mixtures.T]
    words = f"principal component {{}} of {len(states)} checkpoints"
    return TrajectoryDirections(
        name="trajectory_directions",
        value=float(explained.sum()),
        definition=(
            f"principal components of {len(states)} differences to the model's weights, "
            f"{'less their mean' if center == 'mean' else 'not centred'}, over "
            f"{'all parameters' if parameters is None else parameters}"
            f"{', biases and normalization parameters ignored' if biases == 'ignore' else ''}"
        ),
        n=0,
        dtype="float64",
        seconds=time.perf_counter() - start,
        explained=(float(explained[0]), float(explained[1])),
        captured=float((at**2).sum() / np.trace(gram)),
        coordinates=tuple((float(a), float(b)) for a, b in at),
        checkpoints=len(states),
        center=center,
        directions=(
            Direction(steps[0], words.format(1)),
            Direction(steps[1], words.format(2)),
        ),
    )


def _rows(name: str, weight: Tensor, states: Sequence[dict[str, Tensor]]) -> Tensor:
    """The differences of one tensor, (T, its elements), float64, on the CPU."""
    home = weight.detach().cpu().double().flatten()
    return torch.stack([s[name].cpu().double().flatten() - home for s in states])


def _rounding(weights: Iterable[Tensor], count: int) -> float:
    """The energy that rounding alone gives the differences, an ulp of w in each."""
    return count * math.fsum(
        float(w.detach().double().square().sum()) * torch.finfo(w.dtype).eps ** 2 for w in weights
    )


def _components(
    gram: npt.NDArray[np.float64], center: str, rounding: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How to mix the differences into each direction, (T, 2), and the shares they explain."""
    count = len(gram)
    away = np.eye(count) - (1 / count if center == "mean" else 0.0)
    energies, vectors = np.linalg.eigh(away @ gram @ away)
    energies, vectors = energies[::-1], vectors[:, ::-1]
    if energies[1] <= max(count * np.finfo(np.float64).eps * np.trace(gram), rounding):
        raise InputError(
            "checkpoints: they lie on a line, and a plane needs a second direction; give more of "
            "them, or draw a line with direction_towards"
        )
    mixtures = away @ vectors[:, :2] / np.sqrt(energies[:2])
    signs = np.sign(vectors[np.abs(vectors[:, :2]).argmax(0), [0, 1]])
    return mixtures * signs, energies[:2] / energies.sum()


def _mixed(
    shares: npt.NDArray[np.float64],
    named: dict[str, nn.Parameter],
    states: Sequence[dict[str, Tensor]],
) -> dict[str, Tensor]:
    weights = torch.from_numpy(shares.copy())
    return {n: (weights @ _rows(n, p, states)).view(p.shape) for n, p in named.items()}
