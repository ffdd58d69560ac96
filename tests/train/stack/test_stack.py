"""Stacks of networks: what they compute, and their training against the optimizers', one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.models.mlp import MLP
from lowland.optim import SAM, LastLayerSAM
from lowland.train.schedule import learning_rate
from lowland.train.stack import Stack, StackPlan, train
from lowland.train.stack.training import _places

N, BATCH, EPOCHS = 22, 5, 3  # the last two examples of an epoch's order are left out


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.head = nn.Linear(3, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def network(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MLP(16, 3, width=7) if kind == "mlp" else Convolutional()
    return made.double()


def examples() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(N, 1, 4, 4, generator=draws, dtype=torch.float64)
    return x, torch.randint(3, (N,), generator=draws)


def alone(module: nn.Module, x: Tensor, y: Tensor, plan: StackPlan, k: int) -> None:
    """Network k by the optimizers."""
    sgd = torch.optim.SGD(
        module.parameters(), lr=0.1, momentum=plan.momentum, weight_decay=list(plan.weight_decay)[k]
    )
    rho = list(plan.rho)[k]
    if plan.perturbed == "head.*":
        opt = LastLayerSAM(module.parameters(), sgd, rho=rho, model=module)
    else:
        opt = SAM(module.parameters(), sgd, rho=rho)
    count = N // plan.batch_size
    for step in range(count * plan.epochs):
        epoch, place = divmod(step, count)
        order = torch.randperm(N, generator=generator("cpu", plan.seeds[k], "order", epoch))
        rows = order[place * plan.batch_size : (place + 1) * plan.batch_size]
        for group in opt.param_groups:
            group["lr"] = learning_rate(plan.schedule, plan.lr[k], step=step, steps=count * EPOCHS)

        def closure(rows: Tensor = rows) -> Tensor:
            opt.zero_grad()
            loss = cross_entropy(module(x[rows]), y[rows])
            loss.backward()
            return loss

        opt.step(closure)


PLAN = StackPlan(
    seeds=[3, 3, 4, 4],
    rho=[0.0, 0.3, 0.05, 0.8],
    lr=[0.1, 0.1, 0.2, 0.05],
    weight_decay=[0.0, 1e-2, 1e-2, 0.1],
    epochs=EPOCHS,
    batch_size=BATCH,
)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_every_network_is_as_trained_alone(kind: str, schedule: str) -> None:
    x, y = examples()
    plan = StackPlan(**{**vars(PLAN), "schedule": schedule})
    modules = [network(kind, seed) for seed in plan.seeds]
    stack = Stack(modules)
    found = train(stack, x, y, plan)
    assert found.stopped.tolist() == [-1] * 4
    assert found.steps == 12
    for k, module in enumerate(modules):
        alone(module, x, y, plan, k)
        for name, p in module.named_parameters():
            torch.testing.assert_close(stack.parameters[name][k], p.detach(), rtol=1e-9, atol=1e-12)


def test_all_networks_perturbed_and_none() -> None:
    x, y = examples()
    for rho in ([0.2] * 4, [0.0] * 4):
        plan = StackPlan(**{**vars(PLAN), "rho": rho})
        modules = [network("mlp", seed) for seed in plan.seeds]
        stack = Stack(modules)
        train(stack, x, y, plan)
        for k, module in enumerate(modules):
            alone(module, x, y, plan, k)
            torch.testing.assert_close(stack.member(k)(x), module(x), rtol=1e-9, atol=1e-12)


class Scaled(nn.Module):
    """With a parameter that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.scale = nn.Linear(16, 3), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.line(x.flatten(1))
        return logits


def test_single_numbers_are_parameters_too() -> None:
    x, y = examples()
    modules: list[nn.Module] = []
    for seed in PLAN.seeds:
        torch.manual_seed(seed)
        modules.append(Scaled().double())
    stack = Stack(modules)
    train(stack, x, y, PLAN)
    for k, module in enumerate(modules):
        alone(module, x, y, PLAN, k)
        for name, p in module.named_parameters():
            torch.testing.assert_close(stack.parameters[name][k], p.detach(), rtol=1e-9, atol=1e-12)


class Added(nn.Module):
    """With two parameters whose gradients are one tensor, as the biases of an LSTM have."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(16, 3, bias=False)
        self.one, self.other = nn.Parameter(torch.ones(3)), nn.Parameter(2 * torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.line(x.flatten(1)) + (self.one + self.other)
        return logits


def test_parameters_with_one_gradient_decay_each_by_itself() -> None:
    x, y = examples()
    modules: list[nn.Module] = []
    for seed in PLAN.seeds:
        torch.manual_seed(seed)
        modules.append(Added().double())
    stack = Stack(modules)
    masks = {"other": torch.tensor([[1.0, 0.0, 1.0]] * len(modules))}
    train(stack, x, y, PLAN)
    for k, module in enumerate(modules):
        alone(module, x, y, PLAN, k)
        for name, p in module.named_parameters():
            torch.testing.assert_close(stack.parameters[name][k], p.detach(), rtol=1e-9, atol=1e-12)
    before = stack.parameters["one"].clone()
    train(stack, x, y, PLAN, masks=masks)
    assert (stack.parameters["other"][:, 1] == 0).all()
    assert (stack.parameters["one"][:, 1] != before[:, 1]).all()


def test_perturbing_the_head_alone() -> None:
    x, y = examples()
    plan = StackPlan(**{**vars(PLAN), "perturbed": "head.*"})
    modules = [network("cnn", seed) for seed in plan.seeds]
    stack = Stack(modules)
    train(stack, x, y, plan)
    for k, module in enumerate(modules):
        alone(module, x, y, plan, k)
        for name, p in module.named_parameters():
            torch.testing.assert_close(stack.parameters[name][k], p.detach(), rtol=1e-9, atol=1e-12)


def test_networks_do_not_see_each_other() -> None:
    """A network's weights are the same, whoever is beside it."""
    x, y = examples()
    both, one = Stack([network("mlp", 1), network("mlp", 2)]), Stack([network("mlp", 2)])
    shared = {"epochs": EPOCHS, "batch_size": BATCH}
    train(both, x, y, StackPlan(seeds=[7, 8], rho=[0.0, 0.1], **shared))
    train(one, x, y, StackPlan(seeds=[8], rho=0.1, **shared))
    torch.testing.assert_close(both.member(1)(x), one.member(0)(x), rtol=1e-10, atol=1e-13)


def test_where_perturbed_networks_stand_does_not_matter() -> None:
    """Together, which copies nothing, or among the others: the weights are the same."""
    x, y = examples()
    rho = {1: 0.0, 2: 0.1, 3: 0.0, 4: 0.3}
    ends = []
    for order in ([1, 3, 2, 4], [2, 1, 4, 3]):
        stack = Stack([network("mlp", seed) for seed in order])
        masks = {name: p.abs() > 0.05 for name, p in stack.parameters.items()}
        plan = StackPlan(seeds=order, rho=[rho[s] for s in order], epochs=EPOCHS, batch_size=BATCH)
        train(stack, x, y, plan, masks=masks)
        ends.append([stack.member(order.index(seed))(x) for seed in rho])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-13)
    assert isinstance(_places(torch.tensor([False, True, True])), slice)
    assert not isinstance(_places(torch.tensor([True, False, True])), slice)
    assert _places(torch.tensor([False, False])) == slice(0, 0)


def test_own_labels_and_what_is_told() -> None:
    x, y = examples()
    plan = StackPlan(seeds=[1, 1], epochs=1, batch_size=11)
    stack = Stack([network("mlp", 0)] * 2)
    seen: list[tuple[int, float]] = []

    def look(step: int, networks: Stack) -> None:
        outputs = networks(x)
        seen.append((step, float((outputs[0] - outputs[1]).abs().max())))

    train(stack, x, torch.stack([y, (y + 1) % 3]), plan, evaluate_at=(0, 2), on_evaluation=look)
    assert [step for step, _ in seen] == [0, 2]
    assert seen[0][1] == 0
    assert seen[1][1] > 1e-3


def test_masked_parameters_are_zero_and_move_nothing() -> None:
    """As if the masked units were not there: a narrower network in the same weights."""
    x, y = examples()
    wide = network("mlp", 3)
    mask = {name: torch.ones_like(p)[None] for name, p in wide.named_parameters()}
    mask["block1.0.weight"][0, 4:] = 0
    mask["block1.0.bias"][0, 4:] = 0
    mask["block2.0.weight"][0, :, 4:] = 0
    stack = Stack([wide])
    plan = StackPlan(seeds=[0], rho=0.4, weight_decay=0.01, epochs=2, batch_size=BATCH)
    train(stack, x, y, plan, masks=mask)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 7), nn.ReLU())
    narrow.append(nn.Linear(7, 3)).double()
    values = {k: v.detach().clone() for k, v in wide.named_parameters()}
    for p, v in zip(
        narrow.parameters(),
        (
            values["block1.0.weight"][:4],
            values["block1.0.bias"][:4],
            values["block2.0.weight"][:, :4],
            values["block2.0.bias"],
            values["head.weight"],
            values["head.bias"],
        ),
        strict=True,
    ):
        p.data.copy_(v)
    small = Stack([narrow])
    train(small, x, y, plan)
    assert not stack.parameters["block1.0.weight"][0, 4:].any()
    torch.testing.assert_close(stack(x), small(x), rtol=1e-9, atol=1e-12)


def test_a_network_that_diverges_stops_alone() -> None:
    x, y = examples()
    stack = Stack([network("mlp", 1), network("mlp", 1)])

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses = (logits**2).sum(-1)
        return torch.stack([losses[0], losses[1] * math.inf]) if len(losses) == 2 else losses

    before = {name: p[1].clone() for name, p in stack.parameters.items()}
    found = train(stack, x, y, StackPlan(seeds=[0, 0], lr=0.01, batch_size=BATCH), loss=loss)
    assert found.stopped.tolist() == [-1, 0]
    assert all(torch.equal(p[1], before[name]) for name, p in stack.parameters.items())
    assert not torch.equal(stack.parameters["head.weight"][0], before["head.weight"])


class Apart(nn.Module):
    """Three outputs of a head, and one of a body that the head does not touch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.head = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1)[:, :3] * self.head, self.body.expand(len(x), 1)], 1)


def test_a_gradient_that_breaks_where_epsilon_does_not_look_stops_the_network() -> None:
    """The optimizers skip the step of a gradient at w that is not finite, whatever g̃ is."""
    x, y = examples()
    stack = Stack([Apart()])
    of_body = iter((math.inf, 0.0))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[..., :3].square().sum(-1) + logits[..., 3] * next(of_body)

    plan = StackPlan(seeds=[0], rho=0.1, batch_size=N, epochs=1, perturbed="head")
    assert train(stack, x, y, plan, loss=loss).stopped.tolist() == [0]
    assert bool((stack.parameters["head"] == 1).all())


def test_features_and_members() -> None:
    x, _ = examples()
    modules = [network("cnn", seed) for seed in (0, 1)]
    stack = Stack(modules)
    wanted = torch.stack([m.features(x) for m in modules]).detach()
    torch.testing.assert_close(stack(x, method="features"), wanted)
    assert stack.parameter_count == sum(p.numel() for p in modules[0].parameters())
    member = stack.member(1)
    torch.testing.assert_close(member(x), modules[1](x))
    assert not member.training
    for p in member.parameters():
        p.data.zero_()
    assert stack.parameters["head.weight"][1].any()


def frozen_bias() -> nn.Module:
    made = nn.Linear(2, 2)
    made.bias.requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ([], "at least one network"),
        ([nn.Flatten()], "Flatten has no parameters"),
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "network 1 differs from network 0 in"),
        ([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))], "BatchNorm1d has buffers"),
        ([nn.Sequential(nn.Linear(2, 2), nn.Dropout())], "Dropout has buffers or draws"),
        ([nn.LSTM(2, 2, num_layers=2, dropout=0.5)], "LSTM has buffers or draws"),
        ([nn.MultiheadAttention(2, 1, dropout=0.1)], "MultiheadAttention has buffers or draws"),
        (
            [nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh())],
            "network 1 has the parameters of network 0 but other layers",
        ),
        ([nn.Linear(2, 2), nn.Linear(2, 2).double()], "network 1 differs from network 0 in"),
        ([nn.Linear(2, 2), frozen_bias()], "bias of network 1 is frozen"),
    ],
)
def test_networks_that_make_no_stack(modules: list[nn.Module], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Stack(modules)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rho": [0.1]}, "rho has 1 values for 2 networks"),
        ({"lr": -1.0}, "lr must be finite and 0 or more, not -1"),
        ({"weight_decay": [0, math.nan]}, "weight_decay must be finite"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"schedule": "cosin"}, "cosine"),
    ],
)
def test_plans_that_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        StackPlan(**{"seeds": [0, 1], **change})


def test_what_does_not_fit_the_stack() -> None:
    x, y = examples()
    stack = Stack([network("mlp", 0)] * 2)
    plan = StackPlan(seeds=[0, 1], batch_size=BATCH)
    with pytest.raises(InputError, match="the plan has 1 seeds for 2 networks"):
        train(stack, x, y, StackPlan(seeds=[0]))
    with pytest.raises(InputError, match="labels are"):
        train(stack, x, y[:-1], plan)
    with pytest.raises(InputError, match="make no whole batch of 64"):
        train(stack, x, y, StackPlan(seeds=[0, 1]))
    with pytest.raises(InputError, match=r"mask of head\.bias is"):
        train(stack, x, y, plan, masks={"head.bias": torch.ones(2, 4)})
    with pytest.raises(InputError, match=r"parameter 'hed\.bias'"):
        train(stack, x, y, plan, masks={"hed.bias": torch.ones(2, 4)})
    with pytest.raises(InputError, match=r"parameter 'head\.\*'"):
        train(stack, x, y, plan, masks={"head.*": torch.ones(2, 3)})
    with pytest.raises(InputError, match="parameter 'body"):
        train(stack, x, y, StackPlan(seeds=[0, 1], batch_size=BATCH, perturbed="body*"))
