"""Toys about PL rates and membership: settings, recursions, exact variances."""

from __future__ import annotations

import math

import pytest
import torch

from lowland.measure.privacy import gaussian_advantage, linear_membership
from lowland.optim import UnifiedSAM
from lowland.studies.toys import membership, networks, unified


def test_settings_are_the_authors():
    """n = b: A = 0 and C = 1, so that η = 1/(8L), and ρ = 1/(8L) for λ = 0, 1/(4L) else."""
    whole = {s: unified.Setting(0.2, 2.0, 20, 20, s) for s in unified.SHARES}
    assert [whole[s].lr for s in whole] == [0.0625] * 3
    assert [whole[s].rho for s in whole] == [0.0625, 0.125, 0.125]
    one = unified.Setting(0.1, 1.0, 10, 1, 0.0)  # b = 1: A = L, C = 0
    assert one.noise == pytest.approx(1.0)
    assert (one.lr, one.rho) == pytest.approx((0.1 / 8, 0.05 / 4))
    # they decrease from where the schedules are smaller
    assert (one.lr_at(0), one.rho_at(0)) == (one.lr, one.rho)
    k = 10_000
    assert one.lr_at(k) == pytest.approx((2 * k + 1) / ((k + 1) ** 2 * 0.1))
    assert one.rho_at(k) == pytest.approx(1 / (2 * k + 1))


def test_the_quadratic_ends_where_closed_forms_say():
    """USAM falls to 0; SAM ends in the cycle |w| = ηρL/(2 − ηL) along the top eigenvector."""
    (*_, last) = unified.quadratic(seed=1000, rho=0, count=1, decreasing=False, steps=600, points=3)
    lr, rho, top = 0.0625, 0.125, 2.0
    w = lr * rho * top / (2 - lr * top)
    assert last["loss/1"] == pytest.approx(top * w**2 / 2, rel=1e-6)
    assert last["loss/0"] < 1e-6


@pytest.mark.parametrize("decreasing", [False, True])
def test_finite_sums_are_the_librarys_unified_sam(decreasing):
    """The same batches through `UnifiedSAM` itself, with its own ρ and η in every step."""
    settings = {"seed": 7, "rho": 0, "kind": "does-not-fit", "steps": 12, "points": 2}
    (*_, last) = unified.finite_sum(**settings, decreasing=decreasing, paths=1, count=1)
    problem = unified.Problems.draw([7], 5)
    x, y = problem.x[0], problem.y[0, :, 0]
    for share in unified.SHARES:
        setting = unified.Setting(float(problem.mu[0]), 1.0, 20, 10, share)
        w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
        optimizer = UnifiedSAM([w], torch.optim.SGD, rho=setting.rho, lam=share, lr=setting.lr)
        draws = torch.Generator().manual_seed(7)
        for k in range(12):
            rows = torch.rand(1, 20, generator=draws)[0].argsort()[:10]
            if decreasing:
                optimizer.param_groups[0]["lr"] = setting.lr_at(k)
                optimizer.param_groups[0]["rho"] = setting.rho_at(k)

            def closure(rows=rows, w=w, optimizer=optimizer):
                optimizer.zero_grad()
                loss = (x[rows] @ w - y[rows]).square().mean() / 2
                loss.backward()
                return loss

            optimizer.step(closure)
        best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
        left, least = x @ w.detach() - y, x @ best - y
        excess = (left.square().mean() - least.square().mean()) / 2
        assert last[f"loss/{share:g}"] == pytest.approx(float(excess), rel=1e-8)


def test_problems_fit_or_do_not():
    fits, lacks = (
        unified.Problems.draw([1, 2], unified.FEATURES[kind]) for kind in unified.FEATURES
    )
    assert fits.best.tolist() == [[0.0], [0.0]]
    assert bool((lacks.best > 0.01).all())
    hessian = lacks.x[0].T @ lacks.x[0] / 20
    assert float(lacks.mu[0]) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[0]))
    assert float(fits.mu[0]) == pytest.approx(
        float(torch.linalg.eigvalsh(fits.x[0] @ fits.x[0].T / 20)[0])
    )


def test_variances_are_those_of_predictions():
    """Against least squares on drawn labels, for members and others, below and above p = n."""
    g = torch.Generator().manual_seed(0)
    n, dimension, noise = 12, 40, 0.7
    x0 = torch.randn(dimension, generator=g, dtype=torch.float64)
    inputs = torch.randn(1, n, dimension, generator=g, dtype=torch.float64)
    sets = membership.TrainingSets(x0, inputs, noise=noise)
    with_member = inputs[0].clone()
    with_member[0] = x0
    beta = torch.randn(dimension, 4000, generator=g, dtype=torch.float64) / math.sqrt(dimension)
    error = noise * torch.randn(n, 4000, generator=g, dtype=torch.float64)
    for p, ridge in ((6, 0.0), (30, 0.0), (30, 5.0)):
        found = sets.variances(p, ridge=ridge)
        for x, variance in ((with_member, found.member), (inputs[0], found.other)):
            used, y = x[:, :p], x @ beta + error
            if ridge:
                fitted = used.T @ torch.linalg.solve(
                    used @ used.T + ridge * torch.eye(n, dtype=torch.float64), y
                )
            else:
                fitted = torch.linalg.pinv(used) @ y
            drawn = (x0[:p] @ fitted).var()
            assert float(variance) == pytest.approx(float(drawn), rel=0.12)


def test_members_are_known_exactly_where_the_model_interpolates():
    """σ₁² = σ² + ‖x₀‖²/D for p ≥ n, whatever the training set."""
    g = torch.Generator().manual_seed(1)
    x0 = torch.randn(40, generator=g, dtype=torch.float64)
    inputs = torch.randn(3, 12, 40, generator=g, dtype=torch.float64)
    found = membership.TrainingSets(x0, inputs, noise=0.7).variances(25)
    expected = linear_membership(x0, n=12, features=25, noise=0.7).member_variance
    assert found.member.tolist() == pytest.approx([expected] * 3)


def test_advantages_of_known_variances():
    shape = torch.ones(50, dtype=torch.float64)
    draws = torch.randn(2, 50, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for member, other in ((2.0, 0.3), (1.0, 5.0)):
        found = membership.advantages(
            membership.Variances(member * shape, other * shape), 40, draws
        )
        assert found["normal"] == pytest.approx(gaussian_advantage(member, other))
        assert found["fixed"] == pytest.approx(found["normal"], abs=0.02)
        assert found["binned"] == pytest.approx(found["normal"], abs=0.03)
    # of equal distributions nothing can be told, and the histogram finds its bias
    same = membership.advantages(membership.Variances(shape, shape), 40, draws)
    assert same["normal"] == 0
    assert abs(same["fixed"]) < 0.02
    assert 0 < same["binned"] < 0.05
    assert same["bias"] > same["binned"]


def test_rows_of_features_and_ridge():
    common = {"seed": 3, "rho": 0, "count": 1, "draws": 60, "bins": 10, "noise": 1.0}
    rows = list(membership.over_features(**common, examples=10, dimension=60, features=[5, 30, 60]))
    assert ["theory" in row for row in rows] == [False, True, True]
    assert rows[1]["other"] == pytest.approx(rows[1]["theory/other"], rel=0.2)
    rows = list(
        membership.over_ridge(**common, examples=10, dimension=60, features=[30], ridges=[0.0, 1e6])
    )
    assert [row["ridge"] for row in rows] == [0.0, 1e6]
    assert rows[1]["other"] < 1e-3 * rows[0]["other"]


def test_networks_of_a_seed_share_everything_but_rho():
    data = networks.draw(5, 40, 0.5)
    again = networks.draw(5, 40, 0.5)
    assert torch.equal(data.members[1], again.members[1])
    clean = networks.draw(5, 40, 0.0)
    assert torch.equal(data.members[0], clean.members[0])
    changed = (data.members[1] != clean.members[1]).double().mean()
    assert 0.1 < changed < 0.6
    rows = list(
        networks.attacks(
            seed=5, rho=0, count=1, width=6, radii=[0.0, 0.0, 0.3], examples=60, epochs=3,
            evaluations=2,
        )
    )  # fmt: skip
    assert [row["step"] for row in rows] == [0, 0, 0, 2, 2, 2, 3, 3, 3]
    assert rows[-3]["train_loss"] == rows[-2]["train_loss"] != rows[-1]["train_loss"]
    assert rows[0]["train_loss"] == rows[2]["train_loss"]
    assert rows[0]["parameters"] == 6 * 11 + 3 * 7
    assert all(-1 <= row["advantage"] <= 1 for row in rows)


def test_a_network_that_was_stopped_has_no_numbers_from_then_on():
    """Its gradient at w + ε is not finite: it stays where it was, which is no trained network."""
    rows = list(
        networks.attacks(
            seed=5, rho=0, count=1, width=6, radii=[0.0, 1e38], examples=60, epochs=3,
            evaluations=1,
        )
    )  # fmt: skip
    start, end = ({row["rho"]: row for row in rows if row["step"] == step} for step in (0, 3))
    assert math.isfinite(start[1e38]["advantage"])
    assert math.isfinite(end[0.0]["advantage"])
    for name in ("advantage", "val_error", "train_loss"):
        assert math.isnan(end[1e38][name])
    assert end[1e38]["seed"] == 5


@pytest.mark.parametrize("steps", [7, 100])
def test_spaced(steps):
    for log in (False, True):
        found = unified.spaced(steps, 5, log=log)
        assert {0, steps} <= found
        assert max(found) == steps
