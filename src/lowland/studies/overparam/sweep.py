"""Networks of one size, one label noise and one mask over seeds and ρ, trained as one stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data import load
from lowland.studies.methods.experiments.training import network
from lowland.studies.overparam.arms import RANDOM, SNIP
from lowland.studies.overparam.curvature import largest_eigenvalues
from lowland.studies.overparam.level import Crossing, losses
from lowland.studies.overparam.masks import Masks, random_masks, snip_masks
from lowland.train.history import Row
from lowland.train.schedule import evaluation_steps
from lowland.train.stack import Stack, StackPlan, train

SWEEP = "lowland.studies.overparam.sweep:sweep"

Pair = tuple[Tensor, Tensor]


def sweep(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    hidden: Sequence[int],
    noise: float,
    data: str,
    held_out: float | None,
    limit: int | None,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    evaluations: int,
    mask: str = "",
    sparsity: float = 0.0,
    products: int = 0,
    level: float = 0.0,
    sharpness_examples: int = 2_048,
    fingerprint: str | None = None,
    device: str = "cpu",
) -> Iterator[Row]:
    """Rows of every seed and ρ, one for each evaluation: losses on the given labels, and errors.

    The last row of a run also has ``distance``, how far its end is from the end of plain training
    of the same seed, and ``travelled``, how far that one is from its start, as it is after masking;
    both NaN where plain training was stopped by a gradient that was not finite. With `products` it
    has
    ``lambda_max``, the largest eigenvalue of the Hessian of the train loss. With `level` it also
    has, if the train loss came down to that, ``level/lambda_max`` there and ``level/epoch``, when:
    between the ends of the last epoch above and of the first one at or below, ln λ_max is
    interpolated linearly in ln of the loss. A network whose gradient was not finite has NaN from
    then on.

    Args:
        seed: the first seed, of initialisation, wrong labels, masks and order.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: every ρ.
        hidden: units of each hidden layer.
        noise: share of the training labels that are another class, the same for all ρ of a seed.
        data, held_out, limit: of `lowland.data.load`.
        epochs, batch_size, lr, momentum, weight_decay, schedule: of `StackPlan`.
        evaluations: after the one at the start.
        mask, sparsity: of the kernels, ``random`` or ``snip``; empty for none.
        products: with the Hessian for each eigenvalue; 0 measures none.
        level: a train loss; 0 for none.
        sharpness_examples: eigenvalues are of the first so many training images at most.
        fingerprint: of the data that were planned for: runs of other data at the same place are
            other runs. None to take what is there.
        device: where it runs.

    Raises:
        InputError: the data are not those that were planned for.
    """
    examples = Examples.load(data, held_out=held_out, limit=limit, device=device)
    if fingerprint not in (None, examples.fingerprint):
        raise InputError(f"{data} has changed since the study began: start it again")
    # by ρ: networks that are perturbed stand together, so that a stack need not copy them out
    members = [(s, r) for r in sorted(radii) for s in range(seed, seed + count)]
    wrong = {
        s: noisy_labels(examples.train[1], noise, examples.classes, s)
        for s in range(seed, seed + count)
    }
    labels = torch.stack([wrong[s] for s, _ in members])
    stack = _initialised([s for s, _ in members], examples, hidden).to(device)
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
    masks = _masks(mask, sparsity, stack, examples.train[0], labels, plan)
    for name, kept in masks.items():
        stack.parameters[name].mul_(kept)  # what is masked has not travelled to 0
    each = len(examples.train[1]) // batch_size
    log = _Log(
        examples=examples,
        labels=labels,
        evaluated=evaluation_steps(each * epochs, evaluations),
        start={name: p.clone() for name, p in stack.parameters.items()},
        crossing=Crossing(stack, level) if products and level else None,
    )
    ends = range(0, each * epochs + 1, each) if log.crossing else ()
    times = {*log.evaluated, *ends}
    trained = train(
        stack, examples.train[0], labels, plan, masks=masks, evaluate_at=times, on_evaluation=log
    )
    last = log.at_end(stack, members, products, sharpness_examples, each)
    lost = {s for k, (s, r) in enumerate(members) if r == 0 and trained.stopped[k] >= 0}
    for k, (s, r) in enumerate(members):
        stopped = int(trained.stopped[k])
        for step, values in log.rows:
            found = {name: float(value[k]) for name, value in values.items()}
            if step == log.evaluated[-1]:
                found |= last[k]
                if s in lost:
                    found |= dict.fromkeys(("distance", "travelled"), float("nan"))
            if 0 <= stopped < step:
                found = dict.fromkeys(found, float("nan"))
            yield {"rho": r, "seed": s, "epoch": step / each, **found}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The splits as networks see them: flat, normalised.

    Attributes:
        train, validation, test: inputs (n, d) and labels (n,).
        classes: number of classes.
        fingerprint: of the data set.
    """

    train: Pair
    validation: Pair
    test: Pair
    classes: int
    fingerprint: str

    @classmethod
    def load(cls, name: str, *, held_out: float | None, limit: int | None, device: str) -> Examples:
        """Load a data set by name."""
        data = load(name, held_out=held_out, limit=limit)
        pairs = {
            split: (
                data.normalise(s.images).flatten(1).to(device),
                s.labels.to(device),
            )
            for split, s in data.splits.items()
        }
        return cls(**pairs, classes=data.classes, fingerprint=data.fingerprint)


def noisy_labels(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Labels of which exactly round(share·n) are another class, each equally likely.

    With one seed the wrong labels of a smaller share are among those of a larger one.

    Raises:
        InputError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"label noise is a share between 0 and 1, not {share:g}")
    draws = generator("cpu", seed, "wrong labels")
    order = torch.randperm(len(labels), generator=draws)
    moves = torch.randint(1, classes, (len(labels),), generator=draws)
    rows = order[: round(share * len(labels))]
    noisy = labels.cpu().clone()
    noisy[rows] = (noisy[rows] + moves[rows]) % classes
    return noisy.to(labels.device)


def _initialised(seeds: Sequence[int], examples: Examples, hidden: Sequence[int]) -> Stack:
    """Weights N(0, 1/fan-in), biases 0, one network for each seed in the list."""
    sizes = (examples.train[0].shape[1], *hidden, examples.classes)
    made = {s: network(sizes, seed=s, activation=nn.ReLU) for s in dict.fromkeys(seeds)}
    return Stack([made[s] for s in seeds])


def _masks(
    kind: str, sparsity: float, stack: Stack, inputs: Tensor, labels: Tensor, plan: StackPlan
) -> Masks:
    if kind == RANDOM:
        return random_masks(stack, sparsity, plan.seeds)
    if kind != SNIP:
        return {}
    rows = torch.stack(
        [
            torch.randperm(len(inputs), generator=generator("cpu", s, "snip"))[: plan.batch_size]
            for s in plan.seeds
        ]
    ).to(inputs.device)
    return snip_masks(stack, sparsity, inputs[rows], labels.gather(1, rows), shared=False)


@dataclass(kw_only=True)
class _Log:
    """What is seen of the stack while it is trained."""

    examples: Examples
    labels: Tensor
    evaluated: Sequence[int]
    start: dict[str, Tensor]
    crossing: Crossing | None
    rows: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)

    def __call__(self, step: int, stack: Stack) -> None:
        x = self.examples.train[0]
        if self.crossing:
            self.crossing.look(step, stack, x, self.labels)
        if step in self.evaluated:
            logits = stack(x)
            values = {
                "train/loss": losses(logits, self.labels),
                "train/error": _error(logits, self.labels),
            }
            for name in ("validation", "test"):
                x, y = getattr(self.examples, name)
                values[f"{name}/error"] = _error(stack(x), y)
            self.rows.append((step, values))

    def at_end(
        self,
        stack: Stack,
        members: Sequence[tuple[int, float]],
        products: int,
        examples: int,
        each: int,
    ) -> list[dict[str, float]]:
        """What the last row of each run has beside losses and errors."""
        found: list[dict[str, float]] = [{} for _ in members]
        plain = {s: k for k, (s, r) in enumerate(members) if r == 0}
        for k, (s, _) in enumerate(members):
            if s in plain:
                end = {name: p[plain[s]] for name, p in stack.parameters.items()}
                own = {name: p[k] for name, p in stack.parameters.items()}
                started = {name: p[k] for name, p in self.start.items()}
                found[k] |= {"distance": _apart(own, end), "travelled": _apart(end, started)}
        if products:
            x, y = self.examples.train[0][:examples], self.labels[:, :examples]
            for k, value in enumerate(largest_eigenvalues(stack, x, y, products=products)):
                found[k]["lambda_max"] = float(value)
            if self.crossing:
                for k, (time, value) in self.crossing.sharpness(stack, x, y, products).items():
                    found[k] |= {"level/lambda_max": value, "level/epoch": time / each}
        return found


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """(K,) share of examples that are classified wrongly."""
    return (logits.argmax(-1) != labels).double().mean(1)


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Distance between two networks."""
    squares = [(first[name] - second[name]).double().square().sum() for name in first]
    return float(torch.stack(squares).sum().sqrt())
