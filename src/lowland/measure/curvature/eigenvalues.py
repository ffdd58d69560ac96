"""The outermost eigenvalues of the Hessian, each with a residual that certifies it."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.records import Measurement
from lowland.measure.curvature.bounds import PROBABILITY
from lowland.measure.curvature.krylov import NotFiniteError, Symmetric
from lowland.measure.curvature.lanczos import Pairs, Search, Which, refined
from lowland.measure.curvature.operator import HessianOperator, ProductOptions
from lowland.measure.curvature.subject import Matrix
from lowland.measure.evaluation import Batches, Loss

BASIS_BYTES = 2 * 2**30
LONGEST_BASIS = 120
WORDS = {"algebraic": "largest", "smallest": "smallest", "magnitude": "largest in magnitude"}


@dataclass(frozen=True, kw_only=True)
class HessianEigenvalues(Measurement):
    """The outermost eigenvalues; `value` is the first, `uncertainty` its residual.

    That each value is one of the matrix's eigenvalues up to its residual is certain (up to rounding
    in the products); that none further out was missed is not certified by residuals, but by
    `others`, with a probability.

    Attributes:
        values: θ_1 … θ_k, the outermost first.
        residuals: r_i = ‖A·y_i - θ_i·y_i‖ with unit y_i.
        converged_each: whether r_i is within the tolerance.
        complete: whether `others` excludes, up to the tolerance, that an eigenvalue further out
            than the k-th was missed, copies of a multiple one included.
        others: a bound on all other eigenvalues: none is above it (for "smallest" below it, for
            "magnitude" larger in magnitude), with 99% probability over the random vector it was
            found with, whatever the matrix. Infinite where that was not looked for, None where
            there are no others.
        stagnated: residuals stopped falling above the tolerance; float64 may help.
        products: vectors that the matrix was multiplied with.
        size: rows of the matrix.
        vectors: the y_i by parameter name, if they were asked for; not in `to_dict`.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    converged_each: tuple[bool, ...]
    complete: bool
    others: float | None
    stagnated: bool
    products: int
    size: int
    vectors: tuple[dict[str, Tensor], ...] | None = field(default=None, compare=False, repr=False)

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """[θ_i - r_i, θ_i + r_i]: each holds an eigenvalue."""
        pairs = zip(self.values, self.residuals, strict=True)
        return tuple((value - residual, value + residual) for value, residual in pairs)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python values, without vectors."""
        return super(HessianEigenvalues, dataclasses.replace(self, vectors=None)).to_dict()


def hessian_eigenvalues(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    k: int = 5,
    *,
    which: Which = "algebraic",
    matrix: Matrix = "hessian",
    parameters: str | None = None,
    tolerance: float = 1e-3,
    max_products: int = 300,
    block: int = 1,
    look_for_missed: bool = True,
    vectors: bool = False,
    basis_bytes: int = BASIS_BYTES,
    seed: int = 0,
    **options: Unpack[ProductOptions],
) -> HessianEigenvalues:
    """The k outermost eigenvalues of the Hessian or Gauss-Newton matrix of the mean loss.

    Thick-restart Lanczos with full reorthogonalisation. A value counts as converged once
    ‖A·y - θ·y‖ <= tolerance·max(|θ|, ‖A‖/100), with the left side from a product of y itself.
    The error of θ is at most that residual, and near residual²/gap where the gap to the other
    eigenvalues is known.

    A Krylov space of one vector holds one vector of every eigenspace, so copies of a multiple
    eigenvalue do not show. Afterwards Lanczos is therefore run from a new random vector in what
    is orthogonal to all that was found, until nothing further out than the k-th value can be left
    there, with 99% probability (`others`, `complete`); what it finds is added.

    Args:
        model: called as ``model(inputs)``; left as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), the same in every pass; see `HessianOperator`.
        k: how many eigenvalues.
        which: "algebraic" (largest), "magnitude" (largest |λ|, with its sign) or "smallest".
        matrix: "hessian" or "ggn".
        parameters: glob over names of parameters and modules: the block of the matrix that
            belongs to them; None for all that require gradients.
        tolerance: of each residual.
        max_products: vectors multiplied at most, the look for missed values included.
        block: vectors multiplied at a time. More than one finds multiple eigenvalues sooner and
            shares the first derivative where graphs are not kept, but needs more products.
        look_for_missed: False saves its products, and leaves `others` infinite.
        vectors: return eigenvectors too.
        basis_bytes: memory for the basis; at least 2k + 4 vectors are held whatever it says.
        seed: of the random start vectors.
        options: `dtype`, `compile`, `graph_bytes` and `check` of `HessianOperator`.

    Cost: products, each 2 to 3 gradients of the whole data; typically 10-40 of them for k=1 and
    20-100 for k=5, and about half as many again for the look for missed values; up to 120 vectors
    of memory, on the device of the model, as `basis_bytes` allows; 4·m·d operations for each
    product beside m vectors.

    Raises:
        InputError: k below 1 or above the number of weights, a tolerance that is not positive, too
            few products, or what `HessianOperator` raises.
    """
    start = time.perf_counter()
    _check(k, which, tolerance, max_products, block)
    operator = HessianOperator(
        model, loss_fn, batches, matrix=matrix, parameters=parameters, **options
    )
    with operator:
        if k > operator.size:
            raise InputError(
                f"k: {k} eigenvalues of a matrix of {operator.size} rows; ask for fewer"
            )
        search = Search(
            k=k,
            which=which,
            tolerance=tolerance,
            max_products=max_products,
            block=block,
            capacity=_capacity(operator, k, block, basis_bytes),
        )
        found = _search(symmetric(operator), search, operator.finite, look_for_missed, seed)
        named = tuple(operator.layout.by_name(y) for y in found.vectors) if vectors else None
        return HessianEigenvalues(
            name="hessian_eigenvalues",
            value=found.values[0],
            definition=_definition(operator, search, look_for_missed),
            n=operator.n,
            dtype=str(operator.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            uncertainty=found.residuals[0],
            converged=all(found.converged_each),
            seed=seed,
            values=found.values,
            residuals=found.residuals,
            converged_each=found.converged_each,
            complete=found.complete,
            others=found.others,
            stagnated=found.stagnated,
            products=found.products,
            size=operator.size,
            vectors=named,
        )


def max_eigenvalue(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    parameters: str | None = None,
    **options: Any,
) -> HessianEigenvalues:
    """λ_max of the Hessian: `hessian_eigenvalues` with k=1 and its other arguments.

    Raises:
        InputError: what `hessian_eigenvalues` raises.
    """
    found = hessian_eigenvalues(model, loss_fn, batches, 1, parameters=parameters, **options)
    return dataclasses.replace(found, name="max_eigenvalue")


def symmetric(operator: HessianOperator) -> Symmetric:
    """An open operator, for algorithms that know matrices by their products alone.

    Vectors are of float32 at least, whatever the products are computed in.
    """
    wide = wide_dtype(operator.dtype)
    return Symmetric(
        lambda rows: operator.multiply(rows).to(wide), operator.size, wide, operator.device
    )


@dataclass(frozen=True)
class _Found:
    values: tuple[float, ...]
    residuals: tuple[float, ...]
    converged_each: tuple[bool, ...]
    complete: bool
    others: float | None
    stagnated: bool
    products: int
    vectors: Tensor


def _search(
    matrix: Symmetric, search: Search, finite: bool, look_for_missed: bool, seed: int
) -> _Found:
    try:
        if not finite:
            raise NotFiniteError
        return _found(matrix, search, look_for_missed, seed)
    except NotFiniteError:
        nan, no = (math.nan,) * search.k, (False,) * search.k
        nowhere = torch.full((search.k, matrix.size), math.nan, dtype=matrix.dtype)
        return _Found(nan, nan, no, False, math.inf, False, 0, nowhere)


def _found(matrix: Symmetric, search: Search, look_for_missed: bool, seed: int) -> _Found:
    draws = torch.Generator().manual_seed(seed)
    pairs, spent = search.outermost(matrix, draws)
    others: float | None = math.inf
    while look_for_missed and bool(pairs.converged(search.tolerance)[: search.k].all()):
        room = search.max_products - spent
        if room < 1:
            break
        rest = search.missed(matrix, pairs, draws, room)
        spent += rest.products
        others = rest.bound
        if rest.vector is None:
            break
        more = torch.cat([pairs.vectors, rest.vector])
        pairs = refined(matrix, more, search.which, pairs.norm)
        spent += len(more)
        others = math.inf
    return _summary(pairs, search, others, spent)


def _summary(pairs: Pairs, search: Search, others: float | None, spent: int) -> _Found:
    k, flip = search.k, -1 if search.which == "smallest" else 1
    slack = float(pairs.thresholds(search.tolerance)[k - 1])
    outer = pairs.values.abs() if search.which == "magnitude" else flip * pairs.values
    edge = float(outer[k - 1])
    if len(outer) > k:  # found beside the k, so not among what `others` is a bound of
        others = max(
            -math.inf if others is None else others, float((outer + pairs.residuals)[k:].max())
        )
    return _Found(
        values=tuple(pairs.values[:k].tolist()),
        residuals=tuple(pairs.residuals[:k].tolist()),
        converged_each=tuple(pairs.converged(search.tolerance)[:k].tolist()),
        complete=others is None or others <= edge + slack,
        others=None if others is None else flip * others,
        stagnated=pairs.stagnated,
        products=spent,
        vectors=pairs.vectors[:k],
    )


def _check(k: int, which: str, tolerance: float, max_products: int, block: int) -> None:
    if which not in WORDS:
        raise unknown("which", which, WORDS)
    if k < 1 or block < 1:
        raise InputError(f"k={k}, block={block}: give 1 or more of both")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance: {tolerance!r}; give a positive number, such as 1e-3")
    if max_products < 2 * k + 2 * block:
        raise InputError(
            f"max_products: {max_products} are too few for {k} eigenvalues; give at least "
            f"{2 * k + 2 * block}"
        )


def _capacity(operator: HessianOperator, k: int, block: int, basis_bytes: int) -> int:
    """How many vectors a basis may have."""
    vector = operator.size * operator.dtype.itemsize
    least = 2 * k + 2 * block + 2
    return max(least, min(basis_bytes // vector, LONGEST_BASIS, operator.size))


def _definition(operator: HessianOperator, search: Search, look_for_missed: bool) -> str:
    missed = (
        f"looked for with {PROBABILITY:.0%} probability" if look_for_missed else "not looked for"
    )
    return (
        f"{WORDS[search.which]} eigenvalues of the {operator.words}; Lanczos to residuals of "
        f"{search.tolerance:g} of each value, or of 1% of the norm; missed ones {missed}"
    )
