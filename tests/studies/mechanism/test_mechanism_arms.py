"""The four arms: corners, closed forms, and a slow reference written from the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import InputError
from lowland.optim import LastLayerSAM
from lowland.studies.balance.networks import Network, initialised
from lowland.studies.mechanism import (
    ARMS,
    ArmsPlan,
    Head,
    directions,
    importance,
    phantom,
    residuals,
    train_arms,
)
from lowland.studies.mechanism.corners import difference
from lowland.studies.mechanism.training import arm_gradients, head_of
from lowland.train.stack import Stack, StackPlan, train

RHO = 0.3


def network(classes: int = 2, seed: int = 0) -> Network:
    body = lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh())  # noqa: E731
    return initialised(lambda: Network(body(), 7, classes), seed).double()


def batch(classes: int = 2, n: int = 12) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(n, 5, generator=draws, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=draws)


def of_arm(module: Network, x: Tensor, y: Tensor, arm: str, rho: float = RHO) -> dict[str, Tensor]:
    plan = ArmsPlan(seeds=[0], arms=[arm], rho=[rho], lr=0.1, epochs=1)
    found, _ = arm_gradients(Stack([module]), x[None], y[None], plan)
    return {name: g[0] for name, g in found.items()}


@pytest.mark.parametrize("classes", [2, 4])
def test_the_corner_of_sgd_is_the_gradient(classes: int) -> None:
    module, (x, y) = network(classes), batch(classes)
    cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
    found = of_arm(module, x, y, "sgd")
    for name, p in module.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_corner_of_last_layer_sam_is_its_step(classes: int) -> None:
    module, (x, y) = network(classes), batch(classes)
    found = of_arm(module, x, y, "lsam")
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    opt = LastLayerSAM(module.parameters(), torch.optim.SGD, lr=1.0, rho=RHO, model=module)
    opt.step(loss_fn=lambda a, b: cross_entropy(module(a), b, reduction="none"), batch=(x, y))
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name], before[name] - p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arm", ["importance", "rate"])
def test_the_mixed_arms_are_the_formula_with_two_classes(arm: str) -> None:
    module, (x, y) = network(), batch()
    sign = 2.0 * y - 1
    features = module.features(x).detach()
    head = Head(module.head.weight.detach(), module.head.bias.detach())
    there = phantom(features, head, y, RHO)

    def lam(place: Head) -> Tensor:
        z = place(features)
        return torch.sigmoid(-sign * (z[:, 1] - z[:, 0]))

    def v(place: Head) -> Tensor:
        return place.weight[1] - place.weight[0]

    weight = lam(there if ARMS[arm].weights else head)
    carried = v(there if ARMS[arm].head else head)
    body = dict(module.body.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in body.items()}
    for i in range(len(y)):  # -mean λ'_i y_i J_iᵀ v', one example at a time
        along = module.features(x[i : i + 1])[0] @ carried
        for name, g in zip(body, torch.autograd.grad(along, list(body.values())), strict=True):
            expected[name] -= weight[i] * sign[i] * g / len(y)
    found = of_arm(module, x, y, arm)
    for name, g in expected.items():
        torch.testing.assert_close(found[f"body.{name}"], g, rtol=1e-10, atol=1e-14)
    residual = (weight * -sign)[:, None] * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found["head.weight"], residual.T @ features / len(y))


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_is_the_formula_with_many_classes(arm: str) -> None:
    """mean_i J_iᵀ·V'ᵀ·(p'_i - onehot(y_i)), whole Jacobians, one example at a time, by hand."""
    classes, n = 4, 9
    module, (x, y) = network(classes), batch(classes, n)
    features = module.features(x).detach()
    weight, bias = module.head.weight.detach(), module.head.bias.detach()

    def residual(i: int, w: Tensor, b: Tensor) -> Tensor:
        z = (w @ features[i] + b).exp()
        r = z / z.sum()
        r[y[i]] -= 1
        return r

    grad_w, grad_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for i in range(n):
        r = residual(i, weight, bias)
        grad_w += torch.outer(r, features[i]) / n
        grad_b += r / n
    norm = math.sqrt(float((grad_w**2).sum() + (grad_b**2).sum()))
    there = (weight + RHO * grad_w / norm, bias + RHO * grad_b / norm)
    places = {False: (weight, bias), True: there}
    rows = [residual(i, *places[ARMS[arm].weights]) for i in range(n)]
    carried = places[ARMS[arm].head][0]
    found = of_arm(module, x, y, arm)
    for name, p in module.body.named_parameters():
        expected = torch.zeros_like(p)
        for i in range(n):
            h = module.features(x[i : i + 1])[0]
            jacobian = [torch.autograd.grad(unit, p, retain_graph=True)[0] for unit in h]
            for j, slope in zip(carried.T @ rows[i], jacobian, strict=True):
                expected += j * slope / n
        torch.testing.assert_close(found[f"body.{name}"], expected, rtol=1e-10, atol=1e-14)
    own = sum(torch.outer(r, features[i]) for i, r in enumerate(rows)) / n
    torch.testing.assert_close(found["head.weight"], own, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found["head.bias"], sum(rows) / n, rtol=1e-10, atol=1e-14)


def test_arms_differ_and_coincide_without_radius() -> None:
    module, (x, y) = network(), batch()
    found = {arm: of_arm(module, x, y, arm)["body.0.weight"] for arm in ARMS}
    for one in ARMS:
        for other in ARMS:
            assert one == other or not torch.allclose(found[one], found[other], rtol=1e-3)
    still = [of_arm(module, x, y, arm, 0.0)["body.0.weight"] for arm in ARMS]
    assert all(torch.equal(g, still[0]) for g in still)


def test_importance_is_the_sigmoid_of_the_margin() -> None:
    z = torch.tensor([[0.0, 2.0], [1.0, -3.0]], dtype=torch.float64)
    found = importance(z, torch.tensor([1, 1]))
    torch.testing.assert_close(found, torch.sigmoid(torch.tensor([-2.0, 4.0]).double()))
    far = importance(torch.tensor([[0.0, 60.0]], dtype=torch.float64), torch.tensor([1])).item()
    assert far > 0, "not rounded to 0, as 1 - p would be"
    assert math.log(far) == pytest.approx(-60)
    r = residuals(z, torch.tensor([1, 1]))
    torch.testing.assert_close(r.sum(-1), torch.zeros(2).double())
    torch.testing.assert_close(-r[:, 1], found)


def test_phantom_has_the_radius_and_climbs() -> None:
    module, (x, y) = network(3), batch(3)
    features = module.features(x).detach()
    head = Head(module.head.weight.detach(), module.head.bias.detach())
    there = phantom(features, head, y, 1e-3)
    step = torch.cat([(there.weight - head.weight).flatten(), there.bias - head.bias])
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-9)
    assert cross_entropy(there(features), y) > cross_entropy(head(features), y)


def test_each_network_has_an_arm_and_a_radius_of_its_own() -> None:
    modules, (x, y) = [network(2, k) for k in range(3)], batch()
    arms, radii = ["sgd", "rate", "lsam"], [0.5, 0.1, 0.4]
    plan = ArmsPlan(seeds=[0, 0, 0], arms=arms, rho=radii, lr=0.1, epochs=1)
    found, _ = arm_gradients(Stack(modules), x.expand(3, -1, -1), y.expand(3, -1), plan)
    for k, (module, arm, rho) in enumerate(zip(modules, arms, radii, strict=True)):
        for name, g in of_arm(module, x, y, arm, rho).items():
            torch.testing.assert_close(found[name][k], g)


def test_directions_take_any_leading_axes() -> None:
    features = torch.randn(2, 3, 8, 4, dtype=torch.float64)
    head = Head(
        torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    )
    y = torch.randint(0, 5, (2, 3, 8))
    found = directions(features, head, y, 0.2, True, False)
    one = directions(
        features[1, 2], Head(head.weight[1, 2], head.bias[1, 2]), y[1, 2], 0.2, True, False
    )
    torch.testing.assert_close(found.features[1, 2], one.features)
    torch.testing.assert_close(found.head.bias[1, 2], one.head.bias)


@pytest.mark.parametrize(("arm", "rho"), [("sgd", 0.0), ("lsam", 0.2)])
def test_training_in_a_corner_is_training_by_the_stack(arm: str, rho: float) -> None:
    x, y = batch(n=40)
    seeds = [4, 5]
    arms, stacked = (Stack([network(2, s) for s in seeds]) for _ in range(2))
    told: list[int] = []
    steps = train_arms(
        arms,
        x,
        y,
        ArmsPlan(seeds=seeds, arms=[arm] * 2, rho=[rho] * 2, lr=0.1, epochs=3, batch_size=16),
        evaluate_at=[0, 5, 6],
        on_evaluation=lambda step, stack: told.append(step),
    )
    assert (steps, told) == (6, [0, 5, 6])
    plan = StackPlan(
        seeds=seeds,
        rho=rho,
        lr=0.1,
        momentum=0.0,
        schedule="constant",
        epochs=3,
        batch_size=16,
        perturbed="head*",
    )
    train(stacked, x, y, plan)
    for name, p in arms.parameters.items():
        torch.testing.assert_close(p, stacked.parameters[name], rtol=1e-9, atol=1e-11)
    assert head_of(arms.parameters).weight is arms.parameters["head.weight"]


def test_corners_are_measured_and_a_wrong_arm_shows() -> None:
    module, (x, y) = network(), batch()
    assert difference(module, x, y, "sgd", RHO) < 1e-12
    assert difference(module.float(), x.float(), y, "lsam", RHO) < 1e-9
    gap = {name: of_arm(module.double(), x, y, name)["body.0.weight"] for name in ("sgd", "lsam")}
    assert (gap["sgd"] - gap["lsam"]).norm() / gap["sgd"].norm() > 1e-3


def test_plans_that_fit_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="2 seeds, 1 arms and 1 radii"):
        ArmsPlan(seeds=[0, 1], arms=["sgd"], rho=[0.0], lr=0.1, epochs=1)
    with pytest.raises(InputError, match="unknown arm 'lam'"):
        ArmsPlan(seeds=[0], arms=["lam"], rho=[0.0], lr=0.1, epochs=1)
    x, y = batch()
    plan = ArmsPlan(seeds=[0], arms=["sgd"], rho=[0.0], lr=0.1, epochs=1)
    with pytest.raises(InputError, match="for 1 networks, there are 2"):
        train_arms(Stack([network(), network()]), x, y, plan)
