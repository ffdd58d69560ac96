"""The products of every batch, again and again: graphs kept, made anew, or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.curvature.compiled import CompiledProducts, compile_products, signature_of
from lowland.measure.curvature.determinism import REMEDY, DataPass, differ, tolerance_of
from lowland.measure.curvature.held import held_bytes, storage_bytes
from lowland.measure.curvature.maps import MAPS, BatchMap, Parts
from lowland.measure.curvature.subject import Matrix, Subject

Product = Callable[[Sequence[Tensor]], Parts]


class BatchProducts:
    """Pairs (examples, v -> A_b·v) for every batch b.

    Graphs of the first batches are kept from the first round on, as long as there is room for
    them; the others are made in every round. When all are kept, the data are not read again.

    Attributes:
        kept: batches whose graphs are kept.
        kept_bytes: an estimate of what they hold, from the first batch's examples.
        compiled: what takes the batches with the shape of the first; None where they run eagerly.

    Args:
        subject: what is differentiated.
        matrix: "hessian" or "ggn".
        graph_bytes: how much the kept graphs may hold together.
        seen: what each batch must agree with whenever it is read; None to take what comes.
    """

    def __init__(
        self, subject: Subject, matrix: Matrix, graph_bytes: int, seen: DataPass | None
    ) -> None:
        self._subject, self._matrix, self._seen = subject, matrix, seen
        self._room = graph_bytes
        self._per_example: float | None = None
        self._all = False
        self.kept: list[tuple[int, Product]] = []
        self.kept_bytes = 0.0
        self.compiled: CompiledProducts | None = None

    def __iter__(self) -> Iterator[tuple[int, Product]]:
        yield from list(self.kept)
        if self._all:
            return
        count = 0
        for number, (inputs, targets) in enumerate(self._subject):
            count += 1
            if number >= len(self.kept):
                yield self._made(number, inputs, targets)
        self._all = len(self.kept) == count

    def _made(self, number: int, inputs: Any, targets: Tensor) -> tuple[int, Product]:
        size = len(targets)
        compiled = self.compiled
        if compiled is not None and compiled.signature == signature_of(inputs, targets):
            residuals = compiled.residuals(inputs, targets)
            product, used = compiled.product(residuals), self._residual_bytes(residuals)
        else:
            product = self._eager(inputs, targets)
            self._compare(number, size, product)
            used = self._graph_bytes(size, inputs, targets)
        if number == len(self.kept) and self.kept_bytes + used <= self._room:
            self.kept.append((size, product))
            self.kept_bytes += used
        return size, product

    def _eager(self, inputs: Any, targets: Tensor) -> BatchMap:
        outputs = self._subject.outputs(inputs)
        weights = list(self._subject.weights.values())
        return MAPS[self._matrix](self._subject.loss_fn, outputs, targets, weights)

    def _compare(self, number: int, size: int, product: BatchMap) -> None:
        """A batch that is not what it was would make the products those of another matrix."""
        seen = self._seen
        if seen is None:
            return
        same = number < len(seen.sizes) and seen.sizes[number] == size
        tolerance = tolerance_of(self._subject.layout.dtype)
        if not same or differ(float(product.loss), seen.losses[number], tolerance):
            raise InputError(f"batches: batch {number} is not what it was; {REMEDY}")

    def _graph_bytes(self, size: int, inputs: Any, targets: Tensor) -> float:
        """Bytes of a batch's graph; those of the first batch are counted, the others follow."""
        if self._room <= 0:
            return float("inf")
        if self._per_example is None:
            with held_bytes(self._subject.model.parameters()) as held:
                self._eager(inputs, targets)
            self._per_example = held() / size
        return self._per_example * size

    def _residual_bytes(self, residuals: Sequence[Tensor]) -> float:
        if self._room <= 0:
            return float("inf")
        model = self._subject.model
        return storage_bytes(residuals, [*model.parameters(), *model.buffers()])

    def forget(self) -> None:
        """Let go of all graphs."""
        self.kept.clear()
        self.kept_bytes, self._all = 0.0, False

    def compile(self, backend: str) -> None:
        """Compile the products of batches with the first one's shape, or warn and stay eager.

        Compiled products are compared with eager ones before they are used.
        """
        inputs, targets = next(iter(self._subject))
        try:
            compiled = compile_products(self._subject, self._matrix, inputs, targets, backend)
            apart = self._disagreement(compiled, inputs, targets)
        except InputError:
            raise
        except Exception as error:
            what = (str(error).splitlines() or [""])[0]
            _warn(f"{type(error).__name__}: {what}")
            return
        if apart <= 0.3 * torch.finfo(self._subject.layout.dtype).eps ** 0.5:
            self.compiled = compiled
        else:
            _warn(f"the compiled product differs from the eager one by {apart:.1e} of its size")

    def _disagreement(self, compiled: CompiledProducts, inputs: Any, targets: Tensor) -> float:
        layout = self._subject.layout
        draws = torch.Generator().manual_seed(0)
        vector = torch.randn(layout.size, generator=draws, dtype=layout.dtype).to(layout.device)
        vectors = layout.split(vector)
        expected = layout.join(self._eager(inputs, targets)(vectors))
        found = layout.join(compiled.product(compiled.residuals(inputs, targets))(vectors))
        scale = float(torch.linalg.vector_norm(expected))
        apart = float(torch.linalg.vector_norm(found - expected))
        return apart / scale if scale > 0 else apart


def _warn(why: str) -> None:
    warnings.warn(f"compile: products run eagerly: {why}", RuntimeWarning, stacklevel=2)
