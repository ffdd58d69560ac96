"""Does Balanced SAM help where targets are rare?

Liu et al., ICCV 2025, on a regression that scikit-learn carries: the progression of diabetes in 442
patients from 10 measurements (Efron et al. 2004). Targets are between 25 and 346 and rare at both
ends. In each of five folds a fifth of the patients is for the test, another for validation, and the
rest are trained on; so every patient is a test example once. Folds and initialisation are those of
the seed. Bins of targets are 10 wide; an example is *few-shot* if its bin has at most `FEW`
training examples in its fold, which makes about a fifth of all.

With ρ = 0 the group of SAM is plain training on the absolute error, and the group of Balanced SAM
is training on the weighted error, which tells what the weights do alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed, generator
from lowland.optim import SAM, BalancedSAM, label_weights
from lowland.studies.effects import mean, relative_fall
from lowland.studies.methods.experiments.training import batches, network, update
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Effects, Finding, Planned
from lowland.studies.tuned import Tuned
from lowland.studies.verdict import AtLeast, Within
from lowland.train import Experiment
from lowland.train.history import Row
from lowland.train.schedule import learning_rate

Predict = Callable[[Tensor], Tensor]

KINDS = ("sam", "balanced-sam")
RHOS = {"smoke": (0.1,), "default": (0.1, 0.2, 0.4), "paper": (0.05, 0.1, 0.2, 0.4, 0.8)}
FOLDS = 5
BIN = 10.0
FEW = 6
SHARE = 0.03
"""Smallest relative difference of errors that matters."""

_SIZES = {
    "smoke": {"steps": 2, "hidden": 4},
    "default": {"steps": 100, "hidden": 32},
    "paper": {"steps": 400, "hidden": 64},
}


def cross_validate(
    *,
    seed: int,
    rho: float,
    balanced: bool,
    steps: int,
    hidden: int,
    lr: float = 0.05,
    momentum: float = 0.9,
    batch_size: int = 64,
) -> Iterator[Row]:
    """One row: mean absolute errors over the test folds, in the unit of the target.

    Args:
        seed: of folds, initialisation and order.
        rho: ρ of SAM; 0 is SGD.
        balanced: weigh examples by the rarity of their targets.
        steps: updates in each fold.
        hidden: units of each of two hidden layers.
        lr, momentum, batch_size: of SGD; the learning rate falls along a cosine.
    """
    inputs, targets = diabetes()
    folds = torch.randperm(len(targets), generator=generator("cpu", seed, "folds")).chunk(FOLDS)
    errors, rare = torch.empty_like(targets), torch.empty(len(targets), dtype=torch.bool)
    validation = torch.empty_like(targets)
    for i, test in enumerate(folds):
        held = folds[(i + 1) % FOLDS]
        train = torch.cat([f for f in folds if f is not test and f is not held])
        bins = (targets / BIN).round()
        predict = _train(
            inputs[train],
            bins[train],
            targets[train],
            weights=label_weights(bins[train], mean_one=True) if balanced else None,
            rho=rho,
            seed=derived_seed(seed, "fold", i),
            steps=steps,
            sizes=(inputs.shape[1], hidden, hidden, 1),
            lr=lr,
            momentum=momentum,
            batch_size=batch_size,
        )
        errors[test] = (predict(inputs[test]) - targets[test]).abs()
        validation[held] = (predict(inputs[held]) - targets[held]).abs()
        rare[test] = few_shot(bins[test], bins[train])
    yield {
        "validation/error": float(validation.mean()),
        "test/error": float(errors.mean()),
        "test/error/few": float(errors[rare].mean()),
        "test/error/rest": float(errors[~rare].mean()),
        "test/few": int(rare.sum()),
    }


def few_shot(bins: Tensor, trained: Tensor) -> Tensor:
    """Which examples have at most `FEW` training examples in their bin."""
    return (bins[:, None] == trained[None, :]).sum(1) <= FEW


def _train(
    inputs: Tensor,
    bins: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None,
    rho: float,
    seed: int,
    steps: int,
    sizes: Sequence[int],
    lr: float,
    momentum: float,
    batch_size: int,
) -> Predict:
    """Train on the absolute error of standardized targets; returns inputs → targets."""
    center, scale = targets.mean(), targets.std()
    model = network(sizes, seed=seed, activation=nn.ReLU, gain=math.sqrt(2))

    def losses(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        outputs: Tensor = model(x)
        return (outputs[:, 0] - (target - center) / scale).abs()

    def weighted(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        assert weights is not None
        return weights[y.long()] * losses(x, y, target)

    opt: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if rho and weights is not None:
        opt = BalancedSAM(model.parameters(), opt, rho=rho, weights=weights)
    elif rho:
        opt = SAM(model.parameters(), opt, rho=rho)
    loss_fn = weighted if weights is not None and not rho else losses
    data = batches((inputs, bins, targets), batch_size, seed=seed, steps=steps)
    for step, batch in enumerate(data):
        for group in opt.param_groups:
            group["lr"] = learning_rate("cosine", lr, step=step, steps=steps)
        update(opt, loss_fn, batch)

    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        outputs: Tensor = model(x)
        return outputs[:, 0] * scale + center

    return predict


@functools.cache
def diabetes() -> tuple[Tensor, Tensor]:
    """Standardized measurements (442, 10) and targets (442,), in the order of scikit-learn."""
    try:
        from sklearn.datasets import load_diabetes
    except ModuleNotFoundError:
        raise InputError(
            "the diabetes data need scikit-learn: pip install 'lowland[study]'"
        ) from None
    bunch = load_diabetes()
    inputs = torch.from_numpy(bunch.data).float()
    return (inputs - inputs.mean(0)) / inputs.std(0), torch.from_numpy(bunch.target).float()


def planned(size: str, seeds: Sequence[int]) -> list[Planned]:
    """Both kinds at ρ = 0 and at every ρ."""
    return [
        Planned(
            group=_group(kind),
            recipe=Experiment(
                function=f"{__name__}:cross_validate",
                settings={**_SIZES[size], "balanced": kind == KINDS[1]},
                method=kind if rho else "none",
                rho=rho,
                seed=seed,
            ),
        )
        for seed in seeds
        for kind in KINDS
        for rho in (0.0, *RHOS[size])
    ]


def _group(kind: str) -> str:
    return f"imbalance/{kind}"


def claims() -> tuple[Claim, ...]:
    """Fewer errors where targets are rare, and no more elsewhere."""
    chosen = "each at the ρ with the lowest validation error over the other seeds"
    return (
        Claim(
            name="balanced-sam-rare-targets",
            sentence="Balanced SAM lowers SAM's error on rare targets.",
            source="Liu et al., ICCV 2025, abstract",
            published="lower errors on few-shot targets of AgeDB and IMDB-WIKI; not verified",
            effect=f"share by which the mean absolute error on few-shot targets falls, {chosen}",
            unit="percent",
            rule=AtLeast(SHARE),
            reason="Three in a hundred: not 2 points of a score that goes from 25 to 346.",
            find=functools.partial(_fall, column="test/error/few"),
        ),
        Claim(
            name="balanced-sam-overall",
            sentence="It does so at SAM's error over all targets.",
            source="Liu et al., ICCV 2025",
            published="errors over all targets do not rise; not verified",
            effect=f"share by which the mean absolute error over all targets falls, {chosen}",
            unit="percent",
            rule=Within(SHARE),
            reason="The fall that matters on rare targets.",
            find=functools.partial(_fall, column="test/error"),
        ),
    )


def _fall(runs: Runs, column: str) -> Finding:
    """Relative fall of an error from SAM to Balanced SAM."""
    sam, balanced = (Tuned.of(runs, _group(kind)) for kind in KINDS)
    old, new = sam.values(column), balanced.values(column)
    plain, weighted = sam.plain(column), balanced.plain(column)
    values = [mean(list(errors.values())) for errors in (plain, old, new)]
    few = mean(list(sam.plain("test/few").values()))
    return Finding(
        effects=_falls(old, new),
        detail=(
            f"Mean error: plain {values[0]:.1f}, SAM {values[1]:.1f}, Balanced SAM "
            f"{values[2]:.1f}; {few:.0f} of 442 examples are few-shot.{balanced.words()}"
        ),
        beside={
            "against plain training": _falls(plain, new),
            "against the weights alone": _falls(weighted, new),
            "SAM against plain training": _falls(plain, old),
        },
    )


def _falls(before: Effects, after: Effects) -> Effects:
    return {s: relative_fall(before[s], after[s]) for s in sorted(before) if s in after}
