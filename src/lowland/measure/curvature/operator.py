"""The Hessian or Gauss-Newton matrix of a loss, as something that multiplies vectors."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self, TypedDict

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.restore import preserved
from lowland.measure.curvature.determinism import DataPass, data_pass, refuse_different
from lowland.measure.curvature.flat import Layout
from lowland.measure.curvature.maps import MAPS
from lowland.measure.curvature.products import BatchProducts
from lowland.measure.curvature.subject import Matrix, differentiable
from lowland.measure.evaluation import Batches, Loss, refuse_shuffled

GRAPH_BYTES = 2**30
REDUCTIONS = ("mean", "sum")


class ProductOptions(TypedDict, total=False):
    """How products are computed; arguments of `HessianOperator` that every instrument takes."""

    dtype: torch.dtype | None
    compile: bool | str
    graph_bytes: int
    check: bool


class HessianOperator:
    """A = ∇²L(w), or A = Jᵀ(∇²_z ℓ)J, for the mean loss L over all examples, by its products A·v.

    L(w) = (1/n) Σ_i ℓ_i(w), every example once, so that ragged batches are exact; with
    ``reduction="sum"`` A is n times as large. The Gauss-Newton matrix has J = ∂z/∂w of the outputs
    z, and ∇²_z ℓ of the loss alone; it is what is left of the Hessian where z is linear in w.

    Used in ``with``: inside, the model is in eval mode and belongs to the operator; afterwards
    weights, buffers, modes, `requires_grad`, `.grad` and random generators are as they were.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> half_squares = lambda z, y: 0.5 * (z - y).square().sum(1)
    >>> data = [(x[:2], torch.zeros(2, 1)), (x[2:], torch.zeros(1, 1))]
    >>> with HessianOperator(layer, half_squares, data, reduction="sum") as hessian:
    ...     hessian @ torch.tensor([1.0, 1.0])  # XᵀX = diag(2, 4)
    tensor([2., 4.])

    Args:
        model: called as ``model(inputs)``, or ``model(**inputs)`` for a mapping.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets) that can be read again and again, in the same order.
        matrix: "hessian" or "ggn".
        parameters: glob over names of parameters and modules: the block of A that belongs to them;
            None for all that require gradients. What the loss does not depend on gets zeros.
        reduction: "mean" or "sum" over the examples.
        dtype: floating-point type of model, data and products; None for the model's own, but
            float32 for a model of a half type. float64 makes small residuals possible.
        compile: trace and compile the products of batches that have the first one's shape; True
            for inductor, or the name of a backend of `torch.compile`. What cannot be compiled, or
            gives other products, runs eagerly after a warning.
        graph_bytes: how many bytes the graphs of batches may hold that are kept between products.
            A product through a kept graph costs two gradients instead of three.
        check: read the data twice and refuse them unless loss and gradient come out the same.

    Attributes (inside ``with``):
        size: number of weights d.
        n: number of examples.
        loss: L(w).
        gradient: ∇L(w), (d,), n times as large for the sum.
        finite: whether both are numbers; a model that has diverged has no Hessian.
        products: vectors multiplied so far.

    Cost: to open, two gradients over the data (one without `check`), and a copy of the weights.
    A product costs 3 gradients, or 2 through a kept graph (Gauss-Newton: 7/3, or 4/3); k vectors
    at once share what does not depend on them. ``benchmarks/measure_curvature.py`` measures it.

    Raises:
        InputError: shuffled data, batches that differ from pass to pass, BatchNorm that uses the
            statistics of the batch, no examples, a loss of another shape, a glob without match.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        batches: Batches,
        *,
        matrix: Matrix = "hessian",
        parameters: str | None = None,
        reduction: str = "mean",
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        graph_bytes: int = GRAPH_BYTES,
        check: bool = True,
    ) -> None:
        if matrix not in MAPS:
            raise unknown("matrix", matrix, MAPS)
        if reduction not in REDUCTIONS:
            raise unknown("reduction", reduction, REDUCTIONS)
        refuse_shuffled(batches)
        self.matrix, self.reduction, self.parameters = matrix, reduction, parameters
        self.products = 0
        self._given = (model, loss_fn, batches, parameters, dtype)
        self._backend = "inductor" if compile is True else compile or None
        self._graph_bytes, self._check = graph_bytes, check
        self._open: contextlib.ExitStack | None = None
        self._layout: Layout
        self._batches: BatchProducts
        self._seen: DataPass

    def __enter__(self) -> Self:
        if self._open is not None:
            raise InputError("HessianOperator: it is open already; make another one")
        with contextlib.ExitStack() as stack:
            stack.enter_context(preserved(self._given[0]))
            subject = stack.enter_context(differentiable(*self._given))
            self._layout = subject.layout
            self._seen = data_pass(subject)
            if self._check:
                refuse_different(self._seen, data_pass(subject))
            self._batches = BatchProducts(
                subject, self.matrix, self._graph_bytes, self._seen if self._check else None
            )
            stack.callback(self._batches.forget)
            if self._backend is not None and self.finite:
                self._batches.compile(self._backend)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.__exit__(kind, error, trace)

    @property
    def size(self) -> int:
        """Number of weights d: A is (d, d)."""
        return self._layout.size

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in a vector."""
        return self._layout

    @property
    def dtype(self) -> torch.dtype:
        """The type of vectors and products."""
        return self._layout.dtype

    @property
    def device(self) -> torch.device:
        """Where vectors and products are."""
        return self._layout.device

    @property
    def n(self) -> int:
        """Number of examples."""
        return self._seen.n

    @property
    def loss(self) -> float:
        """L(w), or its sum."""
        return self._seen.loss * self._scale

    @property
    def gradient(self) -> Tensor:
        """∇L(w) as a vector (d,), or its sum."""
        return self._seen.gradient * (self._scale / self.n)

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return self._seen.finite

    @property
    def compiled(self) -> bool:
        """Whether products are compiled."""
        return self._batches.compiled is not None

    @property
    def kept_bytes(self) -> int:
        """Bytes that kept graphs hold, as estimated from the first batch."""
        return int(self._batches.kept_bytes)

    @property
    def words(self) -> str:
        """What A is, in words, for the definitions of records."""
        name = "Hessian" if self.matrix == "hessian" else "Gauss-Newton matrix"
        over = "all parameters" if self.parameters is None else self.parameters
        return f"{name} of the {self.reduction} loss in eval mode over {over}"

    @property
    def _scale(self) -> float:
        return float(self.n) if self.reduction == "sum" else 1.0

    def multiply(self, rows: Tensor) -> Tensor:
        """A·v for every row v of `rows` (k, d); one pass over the data for all of them."""
        if self._open is None:
            raise InputError("HessianOperator: use it inside `with`")
        found = torch.zeros_like(rows, dtype=self.dtype, device=self.device)
        vectors = [self._layout.split(row) for row in rows]
        for size, product in self._batches:
            share = self._scale * size / self.n
            for vector, target in zip(vectors, found, strict=True):
                self._layout.add(target, product(vector), share)
        self.products += len(rows)
        return found

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """A·v for v (d,), or A·V for V (d, k).

        Raises:
            InputError: another shape, or the operator is not open.
        """
        if self._open is None:
            raise InputError("HessianOperator: use it inside `with`")
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.size:
            raise InputError(
                f"vectors: shape {tuple(vectors.shape)}; give ({self.size},) or ({self.size}, k)"
            )
        if vectors.ndim == 1:
            return self.multiply(vectors[None])[0]
        return self.multiply(vectors.T.contiguous()).T
