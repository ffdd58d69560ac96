"""Small networks trained on all domains but one, over seeds and ρ, as one stack."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.data import ImageData, load
from lowland.data.images import joined
from lowland.studies.balance.networks import NETWORKS, initialised
from lowland.studies.domains import columns, heads
from lowland.train.history import Row
from lowland.train.schedule import evaluation_steps
from lowland.train.stack import Stack, StackPlan, train

LEAVE_OUT = "lowland.studies.domains.experiment:leave_out"


def leave_out(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    data: str,
    contents: str,
    network: str,
    width: int,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    evaluations: int,
    limit: int | None = None,
) -> Iterator[Row]:
    """Rows of every seed and ρ, one for each evaluation; the last has the new last layers too.

    Args:
        seed: the first seed, of initialisation and order.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: every ρ.
        data, limit: of `lowland.data.load`; the test split is the domain left out.
        contents: of the data that were planned for (`contents_of`).
        network, width: of `lowland.studies.balance.networks`.
        epochs, batch_size, lr, momentum, weight_decay, schedule: of `StackPlan`.
        evaluations: after the one at the start.

    Raises:
        InputError: the data are not those that were planned for.
    """
    held = load(data)
    if contents_of(held) != contents:
        raise InputError(f"{data} has changed since the study began: start it again")
    held = held if limit is None else held.first(limit)
    members = [(s, r) for r in sorted(radii) for s in range(seed, seed + count)]
    starts = {
        s: initialised(lambda: NETWORKS[network](held.shape, held.classes, width), s)
        for s in range(seed, seed + count)
    }
    stack = Stack([starts[s] for s, _ in members])
    plan = StackPlan(
        seeds=[s for s, _ in members],
        rho=[r for _, r in members],
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        epochs=epochs,
        batch_size=batch_size,
    )
    inputs = {name: held.normalise(split.images) for name, split in held.splits.items()}
    each = len(held.train) // batch_size
    found: list[tuple[int, dict[str, Tensor]]] = []
    trained = train(
        stack,
        inputs["train"],
        held.train.labels,
        plan,
        evaluate_at=evaluation_steps(each * epochs, evaluations),
        on_evaluation=lambda step, now: found.append((step, _evaluate(now, held, inputs))),
    )
    features = {name: stack(inputs[name], method="features") for name in ("validation", "test")}
    for k, (s, r) in enumerate(members):
        stopped = int(trained.stopped[k])
        for step, values in found:
            row = {name: float(value[k]) for name, value in values.items()}
            if step == trained.steps and stopped < 0:
                row |= heads.errors(held, features["validation"][k], features["test"][k])
            if 0 <= stopped < step:
                row = dict.fromkeys(row, float("nan"))
            yield {"rho": r, "seed": s, "epoch": step / each, **row}


def contents_of(data: ImageData) -> str:
    """SHA-256 over all images with labels and annotations, whichever split they are in.

    Equal for all domains left out, and for other files at the same place another one: it tells
    runs apart whose data have the same name.
    """
    whole = joined(list(data.splits.values()))
    whole = whole.select(whole.index.argsort())
    digest = hashlib.sha256(f"{tuple(whole.images.shape)} {sorted(whole.annotations)}".encode())
    notes = (values for _, values in sorted(whole.annotations.items()))
    for tensor in (whole.images, whole.labels, whole.index, *notes):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _evaluate(stack: Stack, data: ImageData, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    labels = data.train.labels.expand(stack.size, -1)
    logits = stack(inputs["train"]).flatten(0, 1)
    losses = cross_entropy(logits, labels.flatten(), reduction="none")
    return {
        columns.TRAIN_LOSS: losses.view_as(labels).mean(1),
        columns.INSIDE: _error(stack(inputs["validation"]), data.validation.labels),
        columns.OUTSIDE: _error(stack(inputs["test"]), data.test.labels),
    }


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) != labels).double().mean(1)
