"""Networks of one workload and one width, at every ρ and some seeds, trained together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.data import batch_count
from lowland.studies.study import grid
from lowland.studies.workloads.tasks import Task, open_task
from lowland.train.history import Row
from lowland.train.schedule import evaluation_steps
from lowland.train.stack import Stack, StackPlan, train

RUNS = "lowland.studies.workloads.experiment:runs"


def runs(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    workload: str,
    data: str,
    fingerprint: str,
    images: int | None,
    words: int,
    width: int,
    lr: float,
    weight_decay: float,
    epochs: int,
    batch_size: int,
    evaluations: int,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Iterator[Row]:
    """A row for every evaluation of every network: ``rho``, ``seed``, and what is measured.

    Args:
        seed: the first seed, of initialisation and order.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of the networks of each seed.
        workload, data, images, words: of `lowland.studies.workloads.tasks.open_task`.
        fingerprint: of the data that were planned for.
        width: of the networks.
        lr, weight_decay, epochs, batch_size: of `lowland.train.stack.StackPlan`; momentum is 0.9
            and the learning rate falls along a cosine. A batch is never larger than the data.
        evaluations: after the one at the start.
        image_column, caption_column: of captions; None for the usual names.
    """
    asked = {"image_column": image_column, "caption_column": caption_column}
    columns = {key: name for key, name in asked.items() if name is not None}
    task, found = open_task(workload, data, limit=images, words=words, columns=columns)
    if found != fingerprint:
        raise InputError(f"{data} has changed since the study began: start it again")
    places = sorted(grid(radii, range(seed, seed + count)))  # by ρ, as stacks are fastest
    batch_size = min(batch_size, len(task.inputs))
    plan = StackPlan(
        seeds=[one for _, one in places],
        rho=[radius for radius, _ in places],
        lr=lr,
        weight_decay=weight_decay,
        epochs=epochs,
        batch_size=batch_size,
    )
    per_epoch = batch_count(len(task.inputs), batch_size=batch_size, drop_last=True)
    yield from trained(task, width, plan, per_epoch=per_epoch, evaluations=evaluations)


def trained(
    task: Task, width: int, plan: StackPlan, *, per_epoch: int, evaluations: int
) -> list[Row]:
    """Rows of networks of one width, trained by `plan`; what follows on a stop is NaN."""
    stack = Stack([network(task, width, one) for one in plan.seeds])
    steps = per_epoch * plan.epochs
    found: list[tuple[int, dict[str, list[float]]]] = []

    def look(step: int, networks: Stack) -> None:
        found.append((step, {name: v.tolist() for name, v in task.measure(networks).items()}))

    # attention as products and a softmax: the fused kernel of the CPU does not run side by side
    with sdpa_kernel(SDPBackend.MATH):
        ended = train(
            stack,
            task.inputs,
            task.labels,
            plan,
            evaluate_at=evaluation_steps(steps, evaluations),
            on_evaluation=look,
            loss=task.loss,
        )
    stopped = ended.stopped.tolist()
    rho = plan.rho if isinstance(plan.rho, Sequence) else [plan.rho] * stack.size
    rows: list[Row] = []
    for step, columns in found:
        for k, (radius, one) in enumerate(zip(rho, plan.seeds, strict=True)):
            lost = 0 <= stopped[k] < step
            values = {name: float("nan") if lost else v[k] for name, v in columns.items()}
            rows.append({"rho": radius, "seed": int(one), "epoch": step / per_epoch, **values})
    return rows


def network(task: Task, width: int, seed: int) -> torch.nn.Module:
    """The network of a seed, the same for every ρ; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "initialisation"))
        return task.make(width)
