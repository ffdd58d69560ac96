"""Two-layer runs: draws and steps against literal ones, readings against the instruments."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.measure import RANK_PRESETS, feature_rank
from lowland.studies.two_layer import (
    ACTIVATIONS,
    Network,
    Plan,
    Trainer,
    draw,
    log_points,
    ranks,
    run,
    run_all,
)

SIGMA = {"relu": torch.relu, "tanh": torch.tanh, "abs": torch.abs}


def literal_network(units, scale):
    """Two linear layers, overwritten by normals, from torch's global generator."""
    first, second = nn.Linear(3, units), nn.Linear(units, 1)
    with torch.no_grad():
        for p in (first.weight, second.weight, first.bias, second.bias):
            p.copy_(scale * torch.randn(p.shape))
    return first, second


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_draws_are_those_of_the_global_generators(name):
    activation = ACTIVATIONS[name]
    found = draw(activation, 4, steps=50)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    try:
        np.random.seed(4)
        torch.manual_seed(4)
        x = torch.tensor(np.random.multivariate_normal(np.zeros(3), np.eye(3), 20)).float()
        test_x = torch.tensor(np.random.multivariate_normal(np.zeros(3), np.eye(3), 1000)).float()
        first, second = literal_network(3, 1.0)
        np.random.seed(4)
        torch.manual_seed(4)
        student = literal_network(100, activation.initial_scale)
        order = [int(np.random.choice(20, size=1, replace=False)[0]) for _ in range(50)]
    finally:
        torch.set_rng_state(state)
        np.random.set_state(numpy_state)
    x, test_x = x / x.norm(dim=1, keepdim=True), test_x / test_x.norm(dim=1, keepdim=True)
    with torch.no_grad():
        first.weight /= first.weight.norm(dim=1, keepdim=True)
        second.weight.sign_()
        y = second(SIGMA[name](first(test_x)))[:, 0]
    torch.testing.assert_close(found.x, x)
    torch.testing.assert_close(found.test_x, test_x)
    torch.testing.assert_close(found.test_y, y)
    torch.testing.assert_close(found.student.weight[0, :3], student[0].weight.T.detach())
    torch.testing.assert_close(found.student.weight[0, 3], student[0].bias.detach())
    torch.testing.assert_close(found.student.outer, student[1].weight.detach())
    torch.testing.assert_close(found.student.offset, student[1].bias.detach())
    assert found.order.tolist() == order


def in_float64(drawn):
    student = Network(*(v.double() for v in dataclasses.astuple(drawn.student)))
    names = ("x", "y", "test_x", "test_y")
    values = {name: getattr(drawn, name).double() for name in names}
    return dataclasses.replace(drawn, student=student, **values)


def literal_steps(drawn, activation, plan, lr, steps):
    """The same steps by autograd, weights moved and put back as they are published."""
    weight, bias = drawn.student.weight[0, :3].T.clone(), drawn.student.weight[0, 3].clone()
    outer, offset = drawn.student.outer.clone(), drawn.student.offset.clone()
    parameters = [v.requires_grad_() for v in (weight, bias, outer, offset)]
    for i in range(steps):
        row = drawn.order[i]
        acts = i <= 0.5 * steps

        def loss(row=row, acts=acts):
            hidden = SIGMA[activation.name](weight @ drawn.x[row] + bias)
            value = (outer[0] @ hidden + offset[0] - drawn.y[row]) ** 2
            if plan.penalty == 0 or not acts:
                return value
            slopes = torch.autograd.grad(value, parameters, create_graph=True)
            return value + plan.penalty * torch.sqrt(sum((s**2).sum() for s in slopes))

        gradient = torch.autograd.grad(loss(), parameters)
        if plan.rho and acts:
            norm = torch.sqrt(sum((g**2).sum() for g in gradient))
            kept = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, g in zip(parameters, gradient, strict=True):
                    p += plan.rho * g / norm
            gradient = torch.autograd.grad(loss(), parameters)
            with torch.no_grad():
                for p, k in zip(parameters, kept, strict=True):
                    p.copy_(k)
        with torch.no_grad():
            for p, g in zip(parameters, gradient, strict=True):
                p -= lr * (g + plan.weight_decay * p)
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    "plan", [Plan(), Plan(rho=0.3), Plan(penalty=0.2), Plan(weight_decay=0.05)], ids=str
)
def test_steps_are_those_of_autograd(name, plan):
    activation = ACTIVATIONS[name]
    drawn = in_float64(draw(activation, 1, steps=40, units=12))
    other = in_float64(draw(activation, 2, steps=40, units=12))
    # the runs beside it have another draw and a plan without regularisers
    trainer = Trainer([other, drawn, drawn], [Plan(), plan, Plan()], activation, lr=0.01)
    for name_ in ("rho", "penalty", "decay"):
        setattr(trainer, name_, getattr(trainer, name_).double())
    with torch.no_grad():
        trainer.run([], lambda *_: None)
    weight, bias, outer, offset = literal_steps(drawn, activation, plan, 0.01, 40)
    net = trainer.network
    torch.testing.assert_close(net.weight[1, :3], weight.T, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(net.weight[1, 3], bias, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(net.outer[1:2], outer, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(net.offset[1:2], offset, atol=1e-7, rtol=1e-7)
    squares = sum((p**2).sum() for p in (weight, bias, outer, offset))
    torch.testing.assert_close(net.norm()[1], squares.sqrt())


def test_ranks_are_those_of_the_instrument():
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -4, 30)
    hidden = (torch.randn(6, 20, 30, generator=generator) * scale + 0.3).relu()
    hidden[4] = 0.0
    hidden[5] = 0.7  # the same for all examples
    for place in range(4):
        right = feature_rank(hidden[place], 0.9999).value
        assert ranks(hidden, "unit")[place] == right
        published = feature_rank(hidden[place], **RANK_PRESETS["low-rank-paper-two-layer"]).value
        assert ranks(hidden, "published")[place] == published
    assert ranks(hidden, "unit")[4:].tolist() == [0, 0]
    assert ranks(hidden, "published")[4:].tolist() == [0, 1]
    hidden[0, 0, 0] = torch.nan
    assert ranks(hidden, "unit")[0] == -1


def test_the_published_ranks():
    """Seed 4: 19 without SAM and 4 at the largest radius (arXiv 2305.16292, section 4.1)."""
    plain, sam = run_all("relu", "sam", [0.0, 0.6], [4], exact=True)
    assert plain.feature_rank == 19
    assert sam.feature_rank == 4
    assert sam.active_units < 20 < plain.active_units
    assert plain.steps == plain.curve[-1].step == 19_953
    assert (plain.train_loss, plain.test_loss) == (
        plain.curve[-1].train_loss,
        plain.curve[-1].test_loss,
    )


def test_runs_do_not_depend_on_those_beside_them():
    together = run_all("tanh", "sam", [0.0, 0.4], [0, 3], steps=60)
    assert [(r.seed, r.radius) for r in together] == [(0, 0.0), (0, 0.4), (3, 0.0), (3, 0.4)]
    alone = run("tanh", "sam", 0.4, seed=3, steps=60)
    assert alone.weight_norm == pytest.approx(together[3].weight_norm, rel=1e-5)
    assert alone.train_loss == pytest.approx(together[3].train_loss, rel=1e-3)
    assert together[0].curve[0].weight_norm != together[2].curve[0].weight_norm
    # the same data and student whatever the radius
    assert together[2].curve[0] == together[3].curve[0]


def test_a_run_that_diverges_says_so():
    record = run("relu", "sam", 0.0, seed=0, steps=200, learning_rate=50.0)
    assert record.diverged
    assert record.feature_rank == -1
    assert record.distinct_units == 0


def test_units_at_the_kink_are_not_active_but_by_the_published_rule():
    relu = ACTIVATIONS["relu"]
    values = torch.tensor([[1.0, 1e-8, 0.0], [0.0, 0.0, 0.0]])
    assert relu.active(values).tolist() == [True, True, False]
    assert relu.active(values, rounding=1e-6).tolist() == [True, False, False]
    tanh = torch.tensor([[0.05, -0.06, 0.04]])
    assert ACTIVATIONS["tanh"].active(tanh).tolist() == [True, True, False]


def test_points_of_the_curve():
    points = log_points(19_953, 71)
    assert points[0] == 0
    assert points == sorted(set(points))
    assert 45 <= len(points) <= 71
    assert max(points) < 19_953
    assert log_points(5, 1) == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation"),
        ({"regularizer": "asam"}, "regularizer"),
        ({"radius": -0.1}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"units": 0}, "units"),
        ({"teacher_units": 0}, "teacher_units"),
        ({"points": 0}, "points"),
    ],
)
def test_bad_input_is_one_line(options, message):
    with pytest.raises(InputError, match=message):
        run(**{"steps": 5} | options)
