"""Do sharpness-aware clients help where their data differ?

Qu et al. 2022 (arXiv 2206.02618) and Caldarola et al. 2022 (arXiv 2203.11834), simulated on digits:
ten clients with class shares drawn from Dirichlet(α·p) (`lowland.data.dirichlet_clients`), five of
them in every round, one local epoch each; the server takes the mean. All methods have the same
clients, rounds, local learning rate and order. Those were chosen on seeds from 1000 on for FedAvg
and, with β, for FedCM, which are what FedSAM and MoFedSAM are at ρ = 0; β = 0.1 as in the
simulator that the default comes from needs more rounds than these.

Small α makes clients differ: at 0.5 a client's largest class has half of its data on average, at
100 a sixth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import optim
from lowland.core.seeds import derived_seed, generator
from lowland.data import dirichlet_clients
from lowland.studies.effects import mean
from lowland.studies.methods.experiments.training import Digits, centered, digits, error, network
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Finding, Planned
from lowland.studies.tuned import Tuned, differences
from lowland.studies.verdict import AtLeast
from lowland.train import Experiment
from lowland.train.history import Row

LOW, HIGH = 0.5, 100.0
"""α of clients that differ, and of clients that do not."""
BETA = 0.5
POINTS = 0.0025
"""Smallest fall of an error that matters: a quarter of a percentage point."""

RHOS: Mapping[str, tuple[float, ...]] = {
    "fedsam": (0.1, 0.2, 0.4),
    "fedasam": (0.25, 0.5),
    "mofedsam": (0.2, 0.4),
}
_SIZES = {
    "smoke": {"rounds": 1, "hidden": 4, "clients": 3, "sampled": 2, "batch_size": 64},
    "default": {"rounds": 24, "hidden": 32, "clients": 10, "sampled": 5, "batch_size": 20},
    "paper": {"rounds": 200, "hidden": 128, "clients": 100, "sampled": 10, "batch_size": 5},
}


def simulate(
    *,
    seed: int,
    rho: float,
    method: str,
    alpha: float,
    rounds: int,
    hidden: int,
    clients: int,
    sampled: int,
    batch_size: int,
    local_lr: float = 0.6,
    beta: float | None = None,
) -> Iterator[Row]:
    """One row: losses and errors of the server's network, means over the last quarter of rounds.

    From round to round they go up and down with the clients that take part.

    Args:
        seed: of clients, initialisation, sampling and order.
        rho: ρ at the clients.
        method: ``fedsam``, ``fedasam`` or ``mofedsam``.
        alpha: α of the clients' class shares.
        rounds: of communication.
        hidden: units of the one hidden layer.
        clients: how many there are.
        sampled: how many take part in a round.
        batch_size: of local steps.
        local_lr: of local steps.
        beta: β of ``mofedsam``.
    """
    data = centered(digits())
    rows = dirichlet_clients(data.train[1], clients, alpha, seed=seed)
    local = [(data.train[0][r], data.train[1][r]) for r in rows]
    model = network((64, hidden, 10), seed=seed, activation=nn.ReLU, gain=2**0.5)
    opt = optim.create(
        method,
        model,
        torch.optim.SGD,
        lr=1.0,
        rho=rho,
        local_lr=local_lr,
        local_epochs=1,
        local_batch_size=batch_size,
        seed=derived_seed(seed, "local order"),
        **({} if beta is None else {"beta": beta}),
    )

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y, reduction="none")

    found: list[dict[str, float]] = []
    for number in range(rounds):
        draws = generator("cpu", seed, "clients of a round", number)
        chosen = torch.randperm(clients, generator=draws)[:sampled].tolist()
        opt.step(loss_fn=losses, batches=[local[i] for i in chosen])
        if number >= rounds - max(rounds // 4, 1):
            found.append(_errors(model, data))
    yield {"round": rounds, **{name: mean([row[name] for row in found]) for name in found[0]}}


def _errors(model: nn.Module, data: Digits) -> dict[str, float]:
    with torch.no_grad():
        loss = float(cross_entropy(model(data.train[0]), data.train[1]))
    return {
        "train/loss": loss,
        "validation/error": error(model, data.validation),
        "test/error": error(model, data.test),
    }


def planned(size: str, seeds: Sequence[int]) -> list[Planned]:
    """All methods on clients that differ; FedSAM on clients that do not, too."""
    kinds = [(method, LOW) for method in RHOS] + [("fedsam", HIGH)]
    return [
        Planned(group=_group(method, alpha), recipe=_experiment(method, alpha, rho, size, seed))
        for seed in seeds
        for method, alpha in kinds
        for rho in (0.0, *RHOS[method][: 1 if size == "smoke" else None])
    ]


def _experiment(method: str, alpha: float, rho: float, size: str, seed: int) -> Experiment:
    # FedASAM without ε is FedAvg, as FedSAM is
    trained = "fedsam" if method == "fedasam" and not rho else method
    settings = {
        **_SIZES[size],
        "method": trained,
        "alpha": alpha,
        "beta": BETA if method == "mofedsam" else None,
    }
    plain = "fedcm" if method == "mofedsam" else "fedavg"
    return Experiment(
        function=f"{__name__}:simulate",
        settings=settings,
        method=method if rho else plain,
        rho=rho,
        seed=seed,
    )


def _group(method: str, alpha: float) -> str:
    return f"federated/{method}/alpha {alpha:g}"


def claims() -> tuple[Claim, ...]:
    """The gain of each method, and whether it grows where clients differ."""
    chosen = (
        "means over the last quarter of rounds, each at the ρ with the lowest validation error "
        "over the other seeds"
    )
    unseen = "accuracies on federated CIFAR and others; not verified"
    rows = (
        ("fedsam-on-fedavg", "FedSAM lowers FedAvg's test error where clients differ.",
         "arXiv 2206.02618 and 2203.11834, abstracts",
         f"test error of FedAvg minus that of FedSAM at α = {LOW:g} and equal rounds, {chosen}",
         partial(_gain, method="fedsam")),
        ("fedasam-on-fedavg", "FedASAM lowers FedAvg's test error where clients differ.",
         "arXiv 2203.11834, abstract",
         f"test error of FedAvg minus that of FedASAM at α = {LOW:g} and equal rounds, {chosen}",
         partial(_gain, method="fedasam")),
        ("mofedsam-on-fedsam", "MoFedSAM lowers FedSAM's test error where clients differ.",
         "arXiv 2206.02618, abstract",
         f"test error of FedSAM minus that of MoFedSAM at α = {LOW:g} and equal rounds, {chosen}",
         _momentum),
        ("fedsam-heterogeneity", "FedSAM's gain grows as clients' data differ more.",
         "arXiv 2206.02618 and 2203.11834",
         f"FedSAM's gain over FedAvg at α = {LOW:g} minus that at α = {HIGH:g}, {chosen}",
         _heterogeneity),
    )  # fmt: skip
    return tuple(
        Claim(
            name=name,
            sentence=sentence,
            source=source,
            published=unseen,
            effect=effect,
            unit="points",
            rule=AtLeast(POINTS),
            reason=(
                "A quarter of a percentage point: about one image of the digits' test split, and "
                "less than a round of communication is worth."
            ),
            find=find,
        )
        for name, sentence, source, effect, find in rows
    )


def _gain(runs: Runs, method: str, alpha: float = LOW) -> Finding:
    """Test error of FedAvg minus that of a method at its chosen ρ."""
    tuned = Tuned.of(runs, _group(method, alpha))
    own, plain = tuned.values("test/error"), tuned.plain("test/error")
    beside = {
        f"at ρ = {rho:g}": differences(plain, tuned.at(rho, "test/error")) for rho in tuned.rhos
    }
    return Finding(
        effects=differences(plain, own),
        detail=f"Mean test error: {_mean(plain)} without ε, {_mean(own)} with.{tuned.words()}",
        resolution=_one_image(),
        beside=beside,
    )


def _momentum(runs: Runs) -> Finding:
    """Test error of FedSAM minus that of MoFedSAM, each at its chosen ρ."""
    fedsam, mofedsam = (Tuned.of(runs, _group(name, LOW)) for name in ("fedsam", "mofedsam"))
    old, new = fedsam.values("test/error"), mofedsam.values("test/error")
    plain, momentum = fedsam.plain("test/error"), mofedsam.plain("test/error")
    return Finding(
        effects=differences(old, new),
        detail=f"Mean test error: FedSAM {_mean(old)}, MoFedSAM {_mean(new)}, FedCM "
        f"{_mean(momentum)}.{mofedsam.words()}",
        resolution=_one_image(),
        beside={
            "the momentum alone, FedCM against FedAvg": differences(plain, momentum),
            "ε on top of it, MoFedSAM against FedCM": differences(momentum, new),
        },
    )


def _heterogeneity(runs: Runs) -> Finding:
    """Gain of FedSAM at small α minus its gain at large α."""
    low, high = (_gain(runs, "fedsam", alpha) for alpha in (LOW, HIGH))
    return Finding(
        effects=differences(low.effects, high.effects),
        detail=f"At α = {LOW:g}: {low.detail} At α = {HIGH:g}: {high.detail}",
        resolution=_one_image(),
        beside={f"gain at α = {LOW:g}": low.effects, f"gain at α = {HIGH:g}": high.effects},
    )


def _mean(values: Mapping[int, float]) -> str:
    return f"{mean(list(values.values())):.2%}"


def _one_image() -> float:
    return 1 / len(digits().test[1])
