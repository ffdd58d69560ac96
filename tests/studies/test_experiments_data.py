"""Regression with rare targets, federated rounds, adversarial examples: each by another road."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.data import dirichlet_clients
from lowland.optim import label_weights
from lowland.studies.methods.experiments import adversarial, federated, imbalance
from lowland.studies.methods.experiments.training import centered, digits, error, network


def test_the_diabetes_data_are_standardized_and_whole() -> None:
    inputs, targets = imbalance.diabetes()
    assert inputs.shape == (442, 10)
    assert (float(targets.min()), float(targets.max())) == (25.0, 346.0)
    torch.testing.assert_close(inputs.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(0), torch.ones(10))


def test_few_shot_examples_have_few_neighbours_in_their_bin() -> None:
    draws = torch.Generator().manual_seed(0)
    trained = torch.randint(0, 12, (60,), generator=draws).float()
    bins = torch.arange(14).float()
    expected = [trained.tolist().count(value) <= imbalance.FEW for value in bins.tolist()]
    assert imbalance.few_shot(bins, trained).tolist() == expected
    assert any(expected)
    assert not all(expected)


def test_every_patient_is_tested_once_on_a_network_that_never_saw_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a 'network' that predicts the mean of what it was trained on."""
    targets = imbalance.diabetes()[1]
    seen: list[Tensor] = []

    def mean_of(
        x: Tensor, bins: Tensor, y: Tensor, *, weights: Any, seed: int, **_: Any
    ) -> imbalance.Predict:
        assert weights is None
        seen.append(y)
        return lambda inputs: y.mean().expand(len(inputs))

    monkeypatch.setattr(imbalance, "_train", mean_of)
    (row,) = imbalance.cross_validate(seed=4, rho=0.0, balanced=False, steps=1, hidden=1)
    assert [len(y) for y in seen] == pytest.approx([265] * 5, abs=2)
    folds = torch.randperm(442, generator=imbalance.generator("cpu", 4, "folds")).chunk(5)
    errors = torch.cat([(targets[f] - y.mean()).abs() for f, y in zip(folds, seen, strict=True)])
    assert row["test/error"] == pytest.approx(float(errors.mean()), rel=1e-5)
    few, every = int(row["test/few"] or 0), float(row["test/error"] or 0)
    counts = [
        [round(v / 10) for v in y.tolist()].count(round(value / 10))
        for fold, y in zip(folds, seen, strict=True)
        for value in targets[fold].tolist()
    ]
    assert few == sum(count <= imbalance.FEW for count in counts)
    whole = (few * row["test/error/few"] + (442 - few) * row["test/error/rest"]) / 442  # type: ignore[operator]
    assert whole == pytest.approx(every, rel=1e-5)
    for fold, y in zip(folds, seen, strict=True):  # tested on nothing that it was trained on
        multiset = sorted(targets[fold].tolist() + y.tolist())
        assert len(multiset) == len(fold) + len(y)
        rest = targets.tolist()
        for value in multiset:
            rest.remove(value)


def train(rho: float, *, weights: Tensor | None) -> Tensor:
    inputs, targets = imbalance.diabetes()
    predict = imbalance._train(
        inputs[:120],
        (targets / 10).round()[:120],
        targets[:120],
        weights=weights,
        rho=rho,
        seed=2,
        steps=5,
        sizes=(10, 4, 4, 1),
        lr=0.05,
        momentum=0.9,
        batch_size=32,
    )
    return predict(inputs)


def test_weights_alone_are_balanced_sam_without_a_radius() -> None:
    bins = (imbalance.diabetes()[1] / 10).round()[:120]
    weights = label_weights(bins, mean_one=True)
    alone = train(0.0, weights=weights)
    torch.testing.assert_close(train(1e-9, weights=weights), alone)
    assert not torch.allclose(train(0.5, weights=weights), alone)
    assert not torch.allclose(train(0.0, weights=None), alone)
    equal = torch.ones_like(weights)
    torch.testing.assert_close(train(0.3, weights=equal), train(0.3, weights=None))


def test_a_regression_gives_the_same_row_again() -> None:
    settings: dict[str, Any] = {"balanced": True, "steps": 2, "hidden": 3}
    rows = [list(imbalance.cross_validate(seed=1, rho=0.1, **settings)) for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0] != list(imbalance.cross_validate(seed=2, rho=0.1, **settings))


ROUND: dict[str, Any] = {"hidden": 4, "clients": 3, "batch_size": 1000, "local_lr": 0.5}


def test_a_round_of_one_step_is_the_mean_of_the_clients_steps() -> None:
    (row,) = federated.simulate(
        seed=6, rho=0.0, method="fedsam", alpha=0.5, rounds=1, sampled=3, **ROUND
    )
    data = centered(digits())
    model = network((64, 4, 10), seed=6, activation=nn.ReLU, gain=2**0.5)
    params = list(model.parameters())
    sums = [torch.zeros_like(p) for p in params]
    for rows in dirichlet_clients(data.train[1], 3, 0.5, seed=6):
        loss = cross_entropy(model(data.train[0][rows]), data.train[1][rows])
        for total, g in zip(sums, torch.autograd.grad(loss, params), strict=True):
            total += g / 3
    with torch.no_grad():
        for p, g in zip(params, sums, strict=True):
            p -= 0.5 * g
        loss = cross_entropy(model(data.train[0]), data.train[1])
    assert row["train/loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["test/error"] == error(model, data.test)


def test_some_clients_take_part_in_each_round_and_all_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[list[int]] = []

    class Recorder:
        def step(self, *, loss_fn: Any, batches: list[Any]) -> None:
            rounds.append([len(labels) for _, labels in batches])

    monkeypatch.setattr(federated.optim, "create", lambda *_, **__: Recorder())
    sizes = [torch.arange(n) for n in (5, 6, 7, 8)]
    monkeypatch.setattr(federated, "dirichlet_clients", lambda *_, **__: sizes)
    settings = {**ROUND, "clients": 4, "rounds": 12, "sampled": 2, "alpha": 0.5}
    list(federated.simulate(seed=1, rho=0.1, method="fedsam", **settings))
    assert {len(set(sampled)) for sampled in rounds} == {2}
    assert {size for sampled in rounds for size in sampled} == {5, 6, 7, 8}
    assert len({tuple(sampled) for sampled in rounds}) > 4
    first = list(rounds)
    rounds.clear()
    list(federated.simulate(seed=2, rho=0.1, method="fedsam", **settings))
    assert rounds != first


def test_rounds_repeat_themselves_and_depend_on_what_is_asked() -> None:
    def last(seed: int, **changes: Any) -> dict[str, Any]:
        settings = {**ROUND, "rounds": 3, "sampled": 1, "alpha": 0.5, "method": "fedsam"}
        return list(federated.simulate(seed=seed, rho=0.1, **{**settings, **changes}))[-1]

    assert last(1) == last(1)
    assert last(1) != last(2)
    assert last(1) != last(1, alpha=100.0)
    assert last(1, method="fedasam") != last(1)
    assert last(1, method="mofedsam", beta=0.5) != last(1)
    assert last(1, method="mofedsam", beta=1.0)["train/loss"] == pytest.approx(
        last(1)["train/loss"], rel=1e-6
    )


def test_fedasam_without_a_radius_is_fedavg_and_is_run_once() -> None:
    plan = federated.planned("smoke", [0])
    plain = [p for p in plan if p.recipe.rho == 0]
    by_group = {p.group: p.recipe for p in plain}
    assert by_group["federated/fedasam/alpha 0.5"] == by_group["federated/fedsam/alpha 0.5"]
    assert len({p.recipe for p in plain}) == 3  # FedAvg at two α, and FedCM


def test_an_attack_on_a_linear_network_is_its_corner() -> None:
    """The loss of two classes has a gradient of one sign everywhere: (w₁ − w₀)·(±1)."""
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    x, y = torch.rand(20, 6), torch.randint(2, (20,))
    found = adversarial.attacked(model, x, y, epsilon=0.1, steps=5, size=0.05)
    towards = (model.weight[1] - model.weight[0]).detach()
    sign = torch.where(y == 0, 1.0, -1.0)[:, None] * towards.sign()
    torch.testing.assert_close(found, (x + 0.1 * sign).clamp(0, 1))
    one = adversarial.attacked(model, x, y, epsilon=0.1, steps=1, size=0.03)
    torch.testing.assert_close(one, (x + 0.03 * sign).clamp(0, 1))
    assert torch.equal(adversarial.attacked(model, x, y, epsilon=0.0, steps=3, size=0.1), x)
    assert all(p.grad is None for p in model.parameters())


def test_an_attack_stays_in_its_box_and_on_the_grey_scale() -> None:
    model = network((64, 5, 10), seed=1, activation=nn.ReLU)
    x, y = digits().test[0][:40], digits().test[1][:40]
    found = adversarial.attacked(model, x, y, epsilon=0.2, steps=4, size=0.1)
    assert float((found - x).abs().max()) <= 0.2 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    with torch.no_grad():
        assert cross_entropy(model(found), y) > cross_entropy(model(x), y)


def test_adversarial_training_repeats_itself_and_awp_changes_it() -> None:
    settings: dict[str, Any] = {"examples": 100, "steps": 2, "hidden": 4, "attack_steps": 2}
    rows = {rho: list(adversarial.train(seed=1, rho=rho, **settings)) for rho in (0.0, 0.5)}
    assert rows[0.0] == list(adversarial.train(seed=1, rho=0.0, **settings))
    assert rows[0.0] != rows[0.5]
    (row,) = rows[0.0]
    assert row["test/robust-error"] >= row["test/error"] - 0.05  # type: ignore[operator]
