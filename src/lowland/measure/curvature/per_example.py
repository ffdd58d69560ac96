"""Products with the Hessian of every single example, averaged over the examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from lowland.core.errors import InputError
from lowland.core.restore import preserved
from lowland.measure.curvature.determinism import data_pass, differ, refuse_different, tolerance_of
from lowland.measure.curvature.flat import Layout
from lowland.measure.curvature.maps import HessianMap
from lowland.measure.curvature.subject import Subject, differentiable
from lowland.measure.evaluation import Batches, Loss, losses, refuse_shuffled

Hessian = Callable[[Tensor], Tensor]
"""v -> H_i·v for one example i and v (d,)."""

CHUNK_BYTES = 2**28


class ExampleOptions(TypedDict, total=False):
    """How per-example products are computed; arguments of `ExampleHessians`."""

    dtype: torch.dtype | None
    check: bool
    vectorised: bool


class ExampleHessians:
    """The Hessians H_i = ∇²ℓ_i(w) of all examples i, by means of functions of them.

    Used in ``with``, as `HessianOperator` is.

    Args:
        model: called as ``model(inputs)``.
        loss_fn: losses (b,) or their mean; ℓ_i is what it gives for a batch of one.
        batches: as for `HessianOperator`.
        parameters: glob; None for all that require gradients.
        dtype: as for `HessianOperator`.
        check: as for `HessianOperator`, and that the losses of single examples have the batch's
            loss as their mean.
        vectorised: take several examples at a time where the model allows it.

    Attributes (inside ``with``):
        n: examples.
        finite: whether loss and gradient are numbers.
        products: products H_i·v so far, divided by n: passes over the data.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        batches: Batches,
        *,
        parameters: str | None = None,
        dtype: torch.dtype | None = None,
        check: bool = True,
        vectorised: bool = True,
    ) -> None:
        refuse_shuffled(batches)
        self.parameters = parameters
        self._given = (model, loss_fn, batches, parameters, dtype)
        self._check, self._vectorised = check, vectorised
        self._stack: contextlib.ExitStack | None = None
        self._calls = 0
        self._subject: Subject

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(preserved(self._given[0]))
            self._subject = stack.enter_context(differentiable(*self._given))
            first = data_pass(self._subject)
            self.n, self.finite = first.n, first.finite
            if self._check:
                refuse_different(first, data_pass(self._subject))
                self._refuse_no_mean(first.losses)
            self._vectorised = self._vectorised and self.finite and self._agrees()
            self._calls = 0
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(kind, error, trace)

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in a vector."""
        return self._subject.layout

    @property
    def products(self) -> float:
        """Products H_i·v per example so far."""
        return self._calls / self.n

    @property
    def vectorised(self) -> bool:
        """Whether several examples are taken at a time."""
        return self._vectorised

    def mean(self, function: Callable[[Hessian], Tensor], *, held: int = 4) -> Tensor:
        """(1/n) Σ_i f(H_i): `function` is given v -> H_i·v and returns a tensor of fixed shape.

        Args:
            function: f, in operations that `torch.func.vmap` knows.
            held: about how many vectors f needs at a time.
        """
        if self._stack is None:
            raise InputError("ExampleHessians: use it inside `with`")
        total: Tensor | None = None
        for inputs, targets in self._subject:
            found = self._sum(function, inputs, targets, held)
            total = found if total is None else total + found
        assert total is not None
        return total / self.n

    def _sum(
        self, function: Callable[[Hessian], Tensor], inputs: Any, targets: Tensor, held: int
    ) -> Tensor:
        size = len(targets)
        if not self._vectorised:
            parts = [self._one(function, _row(inputs, i), targets[i : i + 1]) for i in range(size)]
            return torch.stack(parts).sum(0)
        vectors = held * self.layout.size * self.layout.dtype.itemsize
        most = max(1, CHUNK_BYTES // vectors)
        total: Tensor | None = None
        for start in range(0, size, most):
            chunk = slice(start, start + most)
            found = self._several(function, _cut(inputs, chunk), targets[chunk]).sum(0)
            total = found if total is None else total + found
        assert total is not None
        return total

    def _one(self, function: Callable[[Hessian], Tensor], inputs: Any, targets: Tensor) -> Tensor:
        """f(H_i) of a batch of one, from one graph."""
        weights = list(self._subject.weights.values())
        outputs = self._subject.outputs(inputs)
        product = HessianMap(self._subject.loss_fn, outputs, targets, weights)

        def hessian(vector: Tensor) -> Tensor:
            self._calls += 1
            return self.layout.join(product(self.layout.split(vector)))

        return function(hessian)

    def _several(
        self, function: Callable[[Hessian], Tensor], inputs: Any, targets: Tensor
    ) -> Tensor:
        """f(H_i) of every example, stacked."""
        model = getattr(self._subject.model, "_orig_mod", self._subject.model)
        inside = {id(weight) for weight in self._subject.weights.values()}
        names = [name for name, p in model.named_parameters() if id(p) in inside]
        here = [weight.detach() for weight in self._subject.weights.values()]

        def loss(weights: list[Tensor], x: Any, y: Tensor) -> Tensor:
            one = _with_axis(x)
            state = dict(zip(names, weights, strict=True))
            if isinstance(one, dict):
                outputs = functional_call(model, state, (), one)
            else:
                outputs = functional_call(model, state, (one,))
            return losses(self._subject.loss_fn, outputs, y[None]).mean()

        def of_example(x: Any, y: Tensor) -> Tensor:
            pull = vjp(lambda weights: grad(loss)(weights, x, y), here)[1]

            def hessian(vector: Tensor) -> Tensor:
                self._calls += len(targets)
                return torch.cat([part.flatten() for part in pull(self.layout.split(vector))[0]])

            return function(hessian)

        found: Tensor = vmap(of_example, randomness="error")(inputs, targets)
        return found.detach()

    def _agrees(self) -> bool:
        """Whether several at a time works for this model, and gives what one at a time gives."""
        inputs, targets = next(iter(self._subject))
        inputs, targets = _cut(inputs, slice(0, 2)), targets[:2]
        draws = torch.Generator().manual_seed(0)
        vector = torch.randn(self.layout.size, generator=draws, dtype=self.layout.dtype)
        vector = vector.to(self.layout.device)
        if len(set(self.layout.dtypes)) > 1 or len(set(self.layout.devices)) > 1:
            return False
        try:
            together = self._several(lambda hessian: hessian(vector), inputs, targets)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError):
            return False  # some operation has no rule for it; one at a time needs none
        for i, found in enumerate(together):
            alone = self._one(lambda hessian: hessian(vector), _row(inputs, i), targets[i : i + 1])
            scale = float(torch.linalg.vector_norm(alone))
            apart = float(torch.linalg.vector_norm(found - alone))
            if not apart <= 0.3 * torch.finfo(self.layout.dtype).eps ** 0.5 * scale:
                return False
        return True

    @torch.no_grad()
    def _refuse_no_mean(self, seen: list[float]) -> None:
        """A loss that is no mean of losses of its examples has no per-example Hessian."""
        tolerance = 10 * tolerance_of(self.layout.dtype)
        loss_fn = self._subject.loss_fn
        for number, (inputs, targets) in enumerate(self._subject):
            if len(targets) == 1:
                continue
            alone = [
                losses(loss_fn, self._subject.outputs(_row(inputs, i)), targets[i : i + 1]).mean()
                for i in range(len(targets))
            ]
            mean = float(torch.stack(alone).double().mean())
            if differ(mean, seen[number], tolerance):
                raise InputError(
                    f"loss_fn: batch {number} has loss {seen[number]:.6g}, the mean of its "
                    f"examples' own is {mean:.6g}; give a loss that is a mean over examples, each "
                    "by itself"
                )
            return  # one batch tells


def _cut(inputs: Any, rows: slice) -> Any:
    """Some of the examples of a batch."""
    if isinstance(inputs, Mapping):
        return {name: _cut(value, rows) for name, value in inputs.items()}
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"batches: inputs are {type(inputs).__name__}; single examples are taken from a "
            "tensor, or a mapping of tensors, with one row per example"
        )
    return inputs[rows]


def _row(inputs: Any, number: int) -> Any:
    return _cut(inputs, slice(number, number + 1))


def _with_axis(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: _with_axis(value) for name, value in x.items()}
    return x[None]
