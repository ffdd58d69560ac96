"""Ranks of weight matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.blocks import named_blocks
from lowland.measure.features.family import FeatureSpectrum, feature_spectrum
from lowland.measure.features.rank import as_shares, check_share
from lowland.measure.features.ranks import numerical_rank
from lowland.measure.parameters import chosen_parameters


@dataclass(frozen=True, kw_only=True)
class MatrixRank(Measurement):
    """The ranks of one weight matrix, as it is (nothing is subtracted).

    Attributes:
        shape: rows (outputs) and columns (inputs).
        full: min(rows, columns).
        ranks: share of Σσ² -> smallest k that hold it; `value` is the first.
        stable: Σσ²/σ₁².
        effective: exp(-Σ p ln p), p = σ/Σσ.
        numerical: number of σ above max(rows, columns)·ε·σ₁, NumPy's convention.
        energies: σ², descending.
    """

    shape: tuple[int, int]
    full: int
    ranks: dict[float, int] = field(hash=False)
    stable: float
    effective: float
    numerical: int
    energies: npt.NDArray[np.float64] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class WeightRanks(Measurement):
    """Ranks of several weight matrices (`n` is 0: no examples are involved).

    Attributes:
        shares: share of Σσ² -> mean over matrices of rank/full; `value` is the first.
        stable: mean over matrices of the stable rank/full.
        effective: mean over matrices of the effective rank/full.
        numerical: mean over matrices of the numerical rank/full.
        matrices: name -> record, in the model's order.
    """

    shares: dict[float, float] = field(hash=False)
    stable: float
    effective: float
    numerical: float
    matrices: dict[str, MatrixRank] = field(hash=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python values, ready for JSON."""
        matrices = {name: record.to_dict() for name, record in self.matrices.items()}
        return {**super().to_dict(), "matrices": matrices}


def weight_ranks(
    model: nn.Module,
    *,
    parameters: str | None = None,
    variance: float | Sequence[float] = 0.99,
    split_attention: bool = False,
) -> WeightRanks:
    """How much of full rank the weight matrices of `model` have: mean of rank / min(rows, columns).

    The rank of a matrix at t is the smallest k with σ₁² + … + σ_k² ≥ t·Σσ²; stable, effective and
    numerical rank are beside it. Every parameter that is a matrix is one: weights of linear layers
    and embeddings; convolutions as (outputs, inputs·height·width), transposed ones by their outputs
    too; factors of low-rank adapters. Leading sizes of 1 are dropped. Biases and vectors (one row
    or one column) have no rank to speak of and are left out. A weight that several layers share
    counts once. Every matrix counts alike, whatever its size.

    Args:
        model: the network; only its weights are read.
        parameters: glob over names of parameters and modules (`chosen_parameters`); None for all.
        variance: the share t in (0, 1], or several; `value` is for the first.
        split_attention: take the rows of `in_proj_weight` (`nn.MultiheadAttention`) and
            `qkv.weight` (timm) as three matrices, for queries, keys and values; they are one matrix
            otherwise.

    Cost: rows·columns·m/2 + (2/3)·m³ multiply-adds for each, m the smaller side, in float64.

    Raises:
        InputError: the glob matches nothing, or no matrix; `variance` outside (0, 1]; weights that
            are not finite.

    >>> layer = nn.Linear(2, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> weight_ranks(layer).value
    1.0
    """
    start = time.perf_counter()
    shares = [check_share(share) for share in as_shares(variance)]
    chosen = chosen_parameters(model, parameters, frozen=True)
    transposed = _transposed(model)
    found = {
        name: _matrix_rank(name, matrix, shares)
        for full_name, p in chosen.items()
        for name, matrix in _matrices(full_name, p.detach(), id(p) in transposed, split_attention)
    }
    if not found:
        raise InputError(
            f"parameters: none of {', '.join(list(chosen)[:3])} is a matrix; name a layer with "
            "weights of two or more dimensions"
        )
    records = list(found.values())
    means = {t: statistics.fmean(r.ranks[t] / r.full for r in records) for t in shares}
    which = "all weight matrices" if parameters is None else f"the weight matrices of {parameters}"
    return WeightRanks(
        name="weight_ranks",
        value=means[shares[0]],
        definition=(
            f"mean over {which} of k / min(rows, columns), k the fewest squared singular values "
            f"that hold a share of {shares[0]:g} of their sum"
        ),
        n=0,
        dtype="float64",
        seconds=time.perf_counter() - start,
        shares=means,
        stable=statistics.fmean(r.stable / r.full for r in records),
        effective=statistics.fmean(r.effective / r.full for r in records),
        numerical=statistics.fmean(r.numerical / r.full for r in records),
        matrices=found,
    )


def _transposed(model: nn.Module) -> set[int]:
    """Weights whose second dimension is that of the outputs."""
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    modules = [model, *named_blocks(model).values()]
    return {id(m.weight) for m in modules if isinstance(m, kinds)}


def _matrices(
    name: str, weight: Tensor, transposed: bool, split_attention: bool
) -> Iterator[tuple[str, Tensor]]:
    """The matrices (outputs, inputs) that a parameter holds: none, one, or three."""
    last = name.rpartition(".")[2]
    if weight.ndim < 2 or last.endswith("bias"):
        return
    if transposed:
        weight = weight.transpose(0, 1)
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    matrix = weight.flatten(1)
    if min(matrix.shape) < 2:
        return
    joint = last == "in_proj_weight" or name.endswith("qkv.weight")
    if split_attention and joint and len(matrix) % 3 == 0:
        for part, rows in zip(("query", "key", "value"), matrix.chunk(3), strict=True):
            yield f"{name}[{part}]", rows
        return
    yield name, matrix


def _matrix_rank(name: str, matrix: Tensor, shares: list[float]) -> MatrixRank:
    start = time.perf_counter()
    if not bool(torch.isfinite(matrix).all()):
        raise InputError(
            f"model: {name} has NaN or infinity; the run has diverged, measure an earlier one"
        )
    spectrum = feature_spectrum(matrix)
    ranks = spectrum.rank(shares)
    rows, columns = matrix.shape
    return MatrixRank(
        name="matrix_rank",
        value=ranks.value,
        definition=f"{ranks.definition}; of {name} as {rows} by {columns}",
        n=0,
        dtype="float64",
        seconds=time.perf_counter() - start,
        shape=(rows, columns),
        full=min(rows, columns),
        ranks=ranks.ranks,
        stable=spectrum.stable_rank().value,
        effective=spectrum.effective_rank().value,
        numerical=_numerical(spectrum, matrix),
        energies=spectrum.energies * spectrum.unit**2,
    )


def _numerical(spectrum: FeatureSpectrum, matrix: Tensor) -> int:
    """From the squares where they are fine enough, else from a decomposition."""
    if spectrum.tolerance("numpy") >= spectrum.finest:
        return int(spectrum.numerical_rank().value)
    return int(numerical_rank(matrix).value)
