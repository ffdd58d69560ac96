"""Where gradients come from: a closure, or a loss function with a batch that can be split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.autocast import own_precision
from lowland.core.differentiable import twice_differentiable_kernels
from lowland.core.errors import InputError
from lowland.core.sharding import local, placed_like
from lowland.optim.devices import Devices
from lowland.optim.gradient import Group
from lowland.optim.plan import ONE_BATCH, PER_EXAMPLE, Evaluate, LossTerm, Pass
from lowland.optim.scaling import Scaling

Closure = Callable[[], Any]
LossFn = Callable[..., Tensor]
Backward = Callable[[Tensor], Any]

NO_DATA = "no batches to take the gradient of ε from: give at least one"
FOUND_GRADIENTS = (
    "step(closure) found gradients that the closure did not make. The closure has to do it all; "
    "two lines change: put optimizer.zero_grad() first in the closure, and drop the backward() "
    "that comes before step(closure). (A trainer that accumulates gradients over several closures, "
    "as Lightning does with accumulate_grad_batches, needs manual optimization)"
)


class NothingDoneError(Exception):
    """A closure that worked before returned None and made no gradients: it skips the batch."""


def does_nothing(closure: Closure, groups: Sequence[Group]) -> bool:
    """Whether `closure`, called now, returns None and leaves ``.grad`` alone.

    Trainers pass such a closure where their user calls ``step()`` with none.
    """
    grads = [p.grad for group in groups for p in group["params"]]
    versions = [None if g is None else g._version for g in grads]
    with torch.enable_grad():
        if closure() is not None:
            return False
    after = [p.grad for group in groups for p in group["params"]]
    same = all(a is b for a, b in zip(grads, after, strict=True))
    return same and versions == [None if g is None else g._version for g in after]


@dataclass(frozen=True)
class Outcome:
    """Mean loss, number of examples, their losses where known one by one, outputs if asked for."""

    loss: Any
    examples: int
    losses: Tensor | None = None
    outputs: Sequence[Any] = ()


@contextlib.contextmanager
def only(request: Evaluate, groups: Sequence[Group]) -> Iterator[None]:
    """Gradients for the parameters that the request names, and for no others of the optimizer.

    Parameters that the user has frozen stay so.
    """
    if request.only is None:
        yield
        return
    wanted = set(request.only)
    others = [p for group in groups for p in group["params"] if p.requires_grad and p not in wanted]
    try:
        for p in others:
            p.requires_grad_(False)
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


class ClosureEvaluator:
    """torch's closure: zero_grad, forward, backward, return the loss."""

    examples: int | None = None
    micro_batches: int | None = None
    sizes: Sequence[int] = ()

    def __init__(self, closure: Closure) -> None:
        self._closure = closure

    def __call__(self, request: Evaluate, exchange: bool = True) -> Outcome:
        """Run it."""
        return Outcome(self._closure(), 1)


class BatchEvaluator:
    """``loss_fn`` on a batch, on a part of it, or on micro-batches one after the other.

    Args:
        loss_fn: the losses of a batch, one per example or their mean.
        batches: the batch, or its micro-batches.
        split: whether `batches` are micro-batches.
        backward: called with a mean loss to be differentiated.
        terms: loss terms, applied to the losses in this order.
        groups: parameter groups of the optimizer.
        radius: ρ of this step, for loss terms.
        devices: who else has a share of the batch; gradients are exchanged once a pass.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        batches: Sequence[Any],
        *,
        split: bool,
        backward: Backward,
        terms: Sequence[LossTerm],
        groups: Sequence[Group],
        devices: Devices,
        radius: float = 0.0,
    ) -> None:
        if not batches:
            raise InputError("batches is empty: give at least one micro-batch")
        if split and any(getattr(term, "whole_batch", False) for term in terms):
            raise InputError(ONE_BATCH)
        self._loss_fn, self._batches, self._backward = loss_fn, batches, backward
        self._terms, self._groups, self._devices = terms, groups, devices
        self.sizes = [_examples(batch) for batch in batches]
        self.examples = sum(self.sizes)
        self.micro_batches = len(batches) if split else None
        self._factor: float | None = None
        self.away, self.radius = False, radius

    def __call__(self, request: Evaluate, exchange: bool = True) -> Outcome:
        """Run it, and backward unless the request is for losses alone.

        With `exchange`, devices exchange gradients in the last of several micro-batches only.
        """
        twice = self.radius != 0 and any(
            getattr(t, "second_derivatives", False) for t in self._terms
        )
        with twice_differentiable_kernels() if twice else contextlib.nullcontext():
            return self._evaluate(request, exchange)

    def _evaluate(self, request: Evaluate, exchange: bool) -> Outcome:
        self.away = request.at is not None
        if request.data is not None:
            return self._one_by_one(request, list(request.data), exchange)
        if request.part is None and len(self._batches) > 1:
            if request.weigh or request.choose:
                raise InputError(ONE_BATCH)
            return self._one_by_one(request, self._batches, exchange)
        batch = self._part(request.part)
        if request.choose is not None:
            with torch.no_grad():
                losses, _ = self._losses(batch, request)
                losses = _one_each(losses, _examples(batch))
                index = request.choose(losses)
            outcome = self._run(request, _take(batch, index, _examples(batch)), exchange)
            return Outcome(losses.mean(), outcome.examples, outcome.losses)  # of all examples
        return self._run(request, batch, exchange)

    def _part(self, part: slice | Tensor | int | tuple[int, slice | Tensor] | None) -> Any:
        if part is None or isinstance(part, int):
            return self._batches[part or 0]
        number, inside = part if isinstance(part, tuple) else (0, part)
        return _take(self._batches[number], inside, self.sizes[number])

    def _run(self, request: Evaluate, batch: Any, exchange: bool) -> Outcome:
        n = _examples(batch)
        kept: list[Any] = []

        def forward(away: bool) -> Tensor:
            self.away = away
            losses, kept[:] = self._losses(batch, request)
            return losses

        with torch.set_grad_enabled(request.gradient):
            if request.around is None:
                losses = at_w = forward(self.away)
            else:
                at_w, losses = request.around(forward, lambda: self._share(exchange, splits=False))
            loss = at_w.mean()
            wanted = loss if at_w is losses else losses.mean()
        each = losses.detach() if losses.numel() == n and losses.ndim == 1 else None
        if request.gradient and (losses.requires_grad or request.only is None):
            if request.weigh is not None:
                weights = request.weigh(_one_each(losses.detach(), n))
                wanted = (losses * weights.to(losses.dtype)).sum()
            self._differentiate(wanted, self._share(exchange, splits=request.part is not None))
        return Outcome(loss, n, each, kept)

    def _one_by_one(self, request: Evaluate, batches: Sequence[Any], exchange: bool) -> Outcome:
        if not batches:
            raise InputError(NO_DATA)
        mean: Any = 0.0
        kept: list[Any] = []
        sizes = [_examples(batch) for batch in batches]
        own = batches is self._batches
        for i, (batch, n) in enumerate(zip(batches, sizes, strict=True)):
            weight = n / sum(sizes)
            last = i == len(batches) - 1
            with (
                self._devices.replicas.exchange(exchange and last),
                torch.set_grad_enabled(request.gradient),
            ):
                losses, outputs = self._losses(batch, request, number=i)
                loss = losses.mean()
                if request.gradient:
                    share = self._share(exchange, splits=False) if own else 1.0
                    self._differentiate(loss, share * weight)
            mean = mean + loss.detach() * weight
            kept += outputs
        return Outcome(mean, sum(sizes), outputs=kept)

    def _share(self, exchange: bool, splits: bool) -> float:
        """The factor of `Devices.share`, asked for once, when a forward has found the replicas."""
        if exchange and self._factor is None:
            self._factor = self._devices.share(self.sizes, splits)
        return self._factor if exchange and self._factor is not None else 1.0

    def _differentiate(self, loss: Tensor, factor: float) -> None:
        with own_precision(loss.device.type):
            self._backward(loss if factor == 1.0 else loss * factor)

    def _losses(self, batch: Any, request: Evaluate, number: int = 0) -> tuple[Tensor, list[Any]]:
        """The losses with their terms, and the outputs in a list if they were asked for."""
        n = _examples(batch)
        losses, outputs = _call(self._loss_fn, batch), None
        if isinstance(losses, tuple) and len(losses) == 2:
            losses, outputs = losses
        if not isinstance(losses, Tensor) or losses.ndim > 1 or losses.numel() not in (1, n):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise RuntimeError(
                f"loss_fn returned {shape} for {n} examples: return one loss per example, "
                f"shape ({n},), or their mean"
            )
        terms = self._terms if request.term is None else (*self._terms, request.term)
        if terms:
            params = [p for group in self._groups for p in group["params"] if p.requires_grad]
            count = self._groups[0]["sam_step"]
            at = Pass(batch, params, outputs, count, self.away, self.radius, number)
            with own_precision(losses.device.type):
                for term in terms:
                    losses = term(losses, at)
        if not request.outputs:
            return losses, []
        return losses, [outputs.detach() if isinstance(outputs, Tensor) else outputs]


def scaled_backward(scaling: Scaling | None) -> Backward:
    """``loss.backward()``, through the scaler if there is one."""
    if scaling is None:
        return _plain_backward
    return lambda loss: scaling.scaler.scale(loss).backward()


def _plain_backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _one_each(losses: Tensor, n: int) -> Tensor:
    if losses.ndim != 1 or losses.numel() != n:
        raise InputError(PER_EXAMPLE.format("this method"))
    return losses


def _call(loss_fn: LossFn, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return loss_fn(**batch)
    if isinstance(batch, tuple | list):
        return loss_fn(*batch)
    return loss_fn(batch)


def _leaves(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in _leaves(value)]
    if isinstance(batch, tuple | list):
        return [leaf for value in batch for leaf in _leaves(value)]
    return []


def _examples(batch: Any) -> int:
    sizes = {leaf.shape[0] for leaf in _leaves(batch) if leaf.ndim}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"batch has tensors of first dimension {sorted(sizes)}: give tensors of one common, "
            "positive number of examples"
        )
    return int(sizes.pop())


def _take(batch: Any, part: slice | Tensor, examples: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[part] if batch.ndim and batch.shape[0] == examples else batch
    if isinstance(batch, Mapping):
        return {key: _take(value, part, examples) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        values = [_take(value, part, examples) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


class ForeignGradients:
    """Tells gradients that the engine left behind from those that somebody else made.

    A closure that does not start from zero would add its gradient to what stands there. What the
    engine left is simply cleared. If it is somebody else's, NaN is planted on one parameter: a
    closure that clears wipes it out, one that does not accumulates into it and is told so.
    """

    def __init__(self) -> None:
        self._left: tuple[object, int] | None = None
        self._planted: tuple[Tensor, Tensor] | None = None

    def leave(self, groups: Sequence[Group]) -> None:
        """Remember what stands in ``.grad`` after a step."""
        probe = _probe(groups)
        self._left = None
        if probe is not None:
            # a mark, not a reference: weak ones keep model.to() from swapping tensors
            mark = object()
            probe[1].lowland_left = mark  # type: ignore[attr-defined]
            self._left = (mark, probe[1]._version)

    def before(self, groups: Sequence[Group]) -> None:
        """Call before the first evaluation of a closure."""
        self._planted = None
        probe = _probe(groups)
        if probe is None:
            return
        param, grad = probe
        left = self._left
        mark = getattr(grad, "lowland_left", None)
        ours = left is not None and mark is left[0] and grad._version == left[1]
        if ours or not _any_gradient(groups):
            return
        self._planted = (param, torch.full_like(local(param), math.nan))

    def plant(self) -> None:
        """Call once ``.grad`` is cleared."""
        if self._planted:
            param, planted = self._planted
            param.grad = placed_like(planted, param)

    def after(self, loss: Any) -> None:
        """Call after the first evaluation.

        Raises:
            RuntimeError: the closure added its gradient to what it found.
        """
        if self._planted is None:
            return
        (param, planted), self._planted = self._planted, None
        grad = local(param.grad)
        if grad is None or not grad.numel() or not bool(torch.isnan(grad).all()):
            return
        if grad is planted and planted._version == 0:
            param.grad = None  # neither cleared nor touched: the closure has no gradient for it
        elif not isinstance(loss, Tensor) or bool(torch.isfinite(loss).all()):
            raise RuntimeError(FOUND_GRADIENTS)  # a loss that is not finite is another matter


def _any_gradient(groups: Sequence[Group]) -> bool:
    """Whether a gradient is not zero; the last layers', which rarely are, are looked at first."""
    params = (p for group in reversed(groups) for p in reversed(group["params"]))
    return any(p.grad is not None and bool(local(p.grad).any()) for p in params)


def _probe(groups: Sequence[Group]) -> tuple[Tensor, Tensor] | None:
    for group in groups:
        for p in group["params"]:
            if p.grad is not None:
                return p, p.grad
    return None
