"""One step of every method, called as its documentation says, and what its passes should cost.

A forward is counted as a third of a plain step and a backward as two: for every layer one product
makes the output, one the gradient of the input, one the gradient of the weight. The optimizer's own
arithmetic is not in these numbers; the benchmark measures it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.optim import METHODS, create, label_weights
from peak_memory import SGD, Task
from rounds import Step

SAM_LIKE = 2.03
"""The aim for every method of two whole forwards and backwards."""

CIFAR = 50_000
"""Training examples: SAF records their logits, Bayesian SAM's posterior has a width by them."""

CYCLE: dict[str, int] = {"steps": 5, "measured": 5, "warm_up": 5}
"""LookSAM's, with k = 5."""

Options = Callable[["Batch"], dict[str, Any]]


@dataclass
class Batch(Task):
    """A network with its batch, and the same network at half its width for muP²."""

    narrow: nn.Module = field(default_factory=nn.Module)

    def fixed(self) -> int:
        """Bytes of both networks and the batch."""
        beside = [*self.narrow.parameters(), *self.narrow.buffers()]
        return super().fixed() + sum(t.untyped_storage().nbytes() for t in beside)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.model(x), y, reduction="none")

    def losses_and_logits(self, x: Tensor, y: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        return cross_entropy(logits, y, reduction="none"), logits


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        build: makes the step.
        forwards: how many a step has, in forwards of the whole network on the whole batch.
        backwards: likewise.
        steps: how many are timed together: a cycle, or enough to average over what is drawn.
        measured: of how many the peak is taken.
        warm_up: steps until its state is what it will stay.
        aim: the most that time may be, in plain steps.
        memory_aim: the most that peak memory may be, in plain steps' peaks.
    """

    build: Callable[[Batch], Step]
    forwards: float = 2
    backwards: float = 2
    steps: int = 1
    measured: int = 1
    warm_up: int = 2
    aim: float | None = None
    memory_aim: float | None = None

    @property
    def predicted(self) -> float:
        """Time in plain steps, from the passes alone."""
        return (self.forwards + 2 * self.backwards) / 3


def _nothing(batch: Batch) -> dict[str, Any]:
    return {}


def row(name: str, options: Options = _nothing, *, by_batch: bool = False, **settings: Any) -> Row:
    """The row of a method of lowland; `by_batch` says not to take its closure form."""
    made = Row(lambda batch: lowland_step(name, batch, options(batch), by_batch), **settings)
    if made.aim is None and (made.forwards, made.backwards) == (2, 2):
        return replace(made, aim=SAM_LIKE)
    return made


def lowland_step(
    name: str, batch: Batch, options: Mapping[str, Any], by_batch: bool = False
) -> Step:
    """step(closure), or step(loss_fn=, batch=) for the methods that need the examples."""
    if METHODS[name].kind == "base optimizer":
        opt = create(name, batch.model, lr=SGD["lr"], **options)
    else:
        opt = create(name, batch.model, torch.optim.SGD, **{**SGD, **options})
    if not (opt.needs_batch or by_batch):
        return lambda: opt.step(_closure(batch, opt))
    loss_fn = batch.losses_and_logits if name in ("saf", "mesa") else batch.losses
    held: tuple[Tensor, ...] = (batch.x, batch.y)
    if name == "saf":
        held += (torch.arange(len(batch.x)),)
    return lambda: opt.step(loss_fn=loss_fn, batch=held)


def _closure(batch: Batch, opt: Any) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad()
        return batch.backward()

    return closure


TWO_PASSES = [
    "sam", "usam", "unified-sam", "asam", "layerwise-sam", "sam-on", "monge-sam", "f-sam",
    "gcsam", "gsam", "wsam", "agnostic-sam", "amp", "awp", "adasam", "lightsam", "trace-sam",
    "det-sam",
]  # fmt: skip
"""Methods that need nothing said."""


def method_rows() -> dict[str, Row]:
    """Every method, with the settings that its cost depends on as published."""
    return {name: row(name) for name in TWO_PASSES} | {
        "last-layer-sam": row("last-layer-sam", by_batch=True, forwards=1, backwards=1, aim=1.05),
        "last-layer-sam, closure": row("last-layer-sam"),
        "logits-sam": row("logits-sam", forwards=1, backwards=1, aim=1.05),
        "mup2": row("mup2", lambda b: {"base_model": b.narrow}),
        "m-sam": row("m-sam", lambda b: {"m": len(b.x) // 2}),
        "n-sam": row(
            "n-sam", lambda b: {"ascent_data": 2 * [(b.x, b.y)]}, forwards=3, backwards=3
        ),
        "balanced-sam": row("balanced-sam", lambda b: {"weights": label_weights(b.y)}),
        "rw-sam": row("rw-sam", forwards=3),
        "looksam": row("looksam", forwards=1.2, backwards=1.2, aim=1.25, **CYCLE),
        # a backward through the backward: two products for each of its own two, and its own again
        "gradient-norm": row("gradient-norm", forwards=1, backwards=4),
        "esam": row("esam", forwards=2.5, backwards=1.5, aim=1.5),
        "esam, freeze": row(
            "esam", lambda b: {"freeze": True}, forwards=2.5, backwards=1.3, steps=3, measured=10,
            aim=1.5,
        ),
        # one step is an epoch, so that there are past logits of the batch from the ninth step on
        "saf": row(
            "saf", lambda b: {"examples": CIFAR, "steps_per_epoch": 1}, forwards=1, backwards=1,
            warm_up=10, aim=1.03,
        ),
        "mesa": row("mesa", forwards=2, backwards=1, aim=1.2),
        # half of each backward is the gradients of inputs, which go down to the lowest active layer
        "sl-sam": row(
            "sl-sam", lambda b: {"s": 0.2, "rho": 0.01}, backwards=1.2, steps=5, measured=25,
            warm_up=25, memory_aim=1.0,
        ),
        # the base that makes it the method: the mean m is its momentum
        "bayesian-sam": row("bayesian-sam", lambda b: {"examples": CIFAR, "momentum": 0.0}),
        "frob-sam": row("frob-sam", forwards=3, backwards=3),
    }  # fmt: skip


WITHOUT = dict.fromkeys(
    ("fedsam", "fedasam", "mofedsam"),
    "a step is a round over clients, of as many steps of sam as the caller says",
)
"""Methods that have no row, and why."""


def reference_rows() -> dict[str, Row]:
    """What the methods are to be compared with."""
    return {
        "plain": Row(plain, 1, 1),
        "forward": Row(forward, 1, 0),
        "two passes": Row(two_passes),
    }


def plain(batch: Batch) -> Step:
    """zero_grad, forward, backward, the base step."""
    base = torch.optim.SGD(batch.params, **SGD)

    def step() -> None:
        base.zero_grad()
        batch.backward()
        base.step()

    return step


def forward(batch: Batch) -> Step:
    """A forward that keeps nothing."""

    def step() -> None:
        with torch.no_grad():
            batch.loss(batch.x, batch.y)

    return step


def two_passes(batch: Batch) -> Step:
    """A plain step with its pass made twice."""
    base = torch.optim.SGD(batch.params, **SGD)

    def step() -> None:
        for _ in range(2):
            base.zero_grad()
            batch.backward()
        base.step()

    return step


PEER = "pytorch-optimizer "


def peer_rows() -> dict[str, Row]:
    """The methods that pytorch-optimizer has too, called as its documentation says."""
    if not importlib.util.find_spec("pytorch_optimizer"):
        return {}
    rows = {
        "sam": Row(lambda b: _peer_twice(b, "SAM", rho=0.05)),
        "asam": Row(lambda b: _peer_twice(b, "SAM", rho=0.5, adaptive=True)),
        "gcsam": Row(lambda b: _peer_twice(b, "SAM", rho=0.05, use_gc=True)),
        "f-sam": Row(lambda b: _peer_first(b, "FriendlySAM")),
        "gsam": Row(_peer_gsam),
        "wsam": Row(_peer_wsam),
        "bayesian-sam": Row(_peer_bsam),
        # runs the closure in every step, those that reuse included
        "looksam": Row(lambda b: _peer_first(b, "LookSAM", k=5), **CYCLE),
    }
    return {PEER + name: made for name, made in rows.items()}


def _peer(name: str) -> Any:
    import pytorch_optimizer

    return getattr(pytorch_optimizer, name)


def _peer_twice(batch: Batch, name: str, **options: Any) -> Step:
    opt = _peer(name)(batch.params, torch.optim.SGD, **options, **SGD)

    def step() -> None:
        batch.backward()
        opt.first_step(zero_grad=True)
        batch.backward()
        opt.second_step(zero_grad=True)

    return step


def _peer_first(batch: Batch, name: str, **options: Any) -> Step:
    """The first pass before step(closure), as two of its classes ask for."""
    opt = _peer(name)(batch.params, torch.optim.SGD, **options, **SGD)
    closure = _closure(batch, opt)

    def step() -> None:
        closure()
        opt.step(closure)

    return step


def _peer_wsam(batch: Batch) -> Step:
    opt = _peer("WSAM")(batch.model, batch.params, torch.optim.SGD, **SGD)
    closure = _closure(batch, opt)
    return lambda: opt.step(closure)


def _peer_bsam(batch: Batch) -> Step:
    opt = _peer("BSAM")(batch.params, num_data=CIFAR, lr=SGD["lr"])
    closure = _closure(batch, opt)

    def step() -> None:
        for p in batch.params:  # it fails on parameters that have no gradient from before
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        opt.step(closure)

    return step


def _peer_gsam(batch: Batch) -> Step:
    base = torch.optim.SGD(batch.params, **SGD)
    rates = torch.optim.lr_scheduler.ConstantLR(base, factor=1.0)
    radii = _peer("ProportionScheduler")(rates, SGD["lr"], max_value=0.05, min_value=0.05)
    opt = _peer("GSAM")(batch.params, base, batch.model, radii)

    def step() -> None:
        opt.set_closure(cross_entropy, batch.x, batch.y)
        opt.step()

    return step


def all_rows() -> dict[str, Row]:
    """The whole table, in its order."""
    own = method_rows()
    order = {name: place for place, name in enumerate(METHODS)}
    names = sorted(own, key=lambda name: order[name.partition(",")[0]])
    return reference_rows() | {name: own[name] for name in names} | peer_rows()
