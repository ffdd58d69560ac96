"""What users of federated rounds meet: running statistics, groups, schedules, records, mistakes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from family import SGD, close
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.optim import METHODS, FedASAM, FedSAM, MoFedSAM, NormLayers, Perturbation, create

CLIENTS = [data(i, n=n) for i, n in enumerate((6, 7, 4))]
LOCAL: dict[str, Any] = {"local_steps": 3, "rho": 0.2, "lr": 1.0}


def fed(kind: Any, model: nn.Module, **own: Any) -> Any:
    return kind(model.parameters(), SGD, model=model, **{**LOCAL, **own})


# Running statistics


@pytest.mark.parametrize("rho", [0.0, 0.2])
@pytest.mark.parametrize("given", [True, False])
def test_running_statistics_move_at_w_alone(rho: float, given: bool) -> None:
    """Once for each client, on its first mini-batch, at the server's weights."""
    model = network(3)
    twin = copy.deepcopy(model)
    own = {**LOCAL, "rho": rho, "local_batch_size": 4}
    opt = FedSAM(model.parameters(), SGD, model=model if given else None, **own)
    for _ in range(2):
        twin.load_state_dict({**twin.state_dict(), **dict(model.named_parameters())})
        first: list[Tensor] = []

        def fn(x: Tensor, y: Tensor, first: list[Tensor] = first) -> Tensor:
            if not opt.at_perturbed_weights:
                first.append(x)
            return losses(model)(x, y)

        opt.step(loss_fn=fn, batches=CLIENTS)
        assert len(first) == len(CLIENTS)
        for x in first:
            twin(x)
        assert equal(list(model.buffers()), list(twin.buffers()))


@pytest.mark.parametrize(("policy", "passes"), [("frozen", 3), ("update", 18), ("eval", 3)])
def test_other_policies_for_running_statistics(policy: str, passes: int) -> None:
    model = network(3)
    opt = fed(FedSAM, model, bn_second=policy)
    modes: list[bool] = []
    model[1].register_forward_pre_hook(lambda layer, args: modes.append(layer.training))
    opt.step(loss_fn=losses(model), batches=CLIENTS)
    assert int(model[1].num_batches_tracked) == passes
    assert modes.count(True) == (3 if policy == "eval" else 18)
    assert model[1].training


def test_group_normalization_has_nothing_to_freeze() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, 3))
    ends = []
    for policy in ("frozen", "update"):
        twin = copy.deepcopy(model)
        fed(FedSAM, twin, bn_second=policy).step(loss_fn=losses(twin), batches=CLIENTS)
        ends.append(weights(twin))
    assert equal(*ends)


# Randomness and precision


def test_replayed_randomness_is_that_of_each_local_step() -> None:
    """Both passes of a local step have one mask, and the next local step another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    opt, masks = fed(FedSAM, model, replay_rng=True), []

    def fn(x: Tensor, y: Tensor) -> Tensor:
        masks.append(model[1](torch.ones(50)))
        return losses(model)(x, y)

    opt.step(loss_fn=fn, batches=CLIENTS)
    pairs = [(masks[i], masks[i + 1]) for i in range(0, 18, 2)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len({tuple(a.tolist()) for a, _ in pairs}) == 9


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_autocast_sees_the_weights_of_every_local_step(rho: float) -> None:
    """Autocast keeps its casts of weights, and would run a client on those of the step before."""
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3))
        opt = fed(FedSAM, model, rho=rho, local_lr=0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cached):
            opt.step(loss_fn=losses(model), batches=CLIENTS)
        found.append(weights(model))
    close(*found, 1e-6)


# Groups and schedules


def test_local_step_sizes_belong_to_groups_and_move_between_rounds() -> None:
    """A group that hardly moves locally is as good as one that is frozen."""
    model, frozen = network(3, norm=False), network(3, norm=False)
    first, rest = list(model[0].parameters()), list(model[3].parameters())
    own = {**LOCAL, "rho": 0.0}
    opt = FedSAM([{"params": first, "local_lr": 1e-12}, {"params": rest}], SGD, **own)
    frozen[0].requires_grad_(False)
    other = FedSAM(frozen[3].parameters(), SGD, **own)
    for rate in (0.1, 0.05):
        opt.param_groups[1]["local_lr"] = other.param_groups[0]["local_lr"] = rate
        opt.step(loss_fn=losses(model), batches=CLIENTS)
        other.step(loss_fn=losses(frozen), batches=CLIENTS)
    close(weights(model), weights(frozen), 1e-6)


@pytest.mark.parametrize("kind", [FedSAM, FedASAM, MoFedSAM])
def test_groups_are_one_network(kind: Any) -> None:
    """Norms, clipping and momentum are over all groups together."""
    ends = []
    for split in (False, True):
        model = network(3, norm=False)
        own = {**LOCAL, "clip": 0.4, "local_weight_decay": 0.05}
        named = list(model.named_parameters())
        if split:
            opt = kind([{"params": named[:1]}], SGD, model=model, **own)
            opt.add_param_group({"params": named[1:]})
        else:
            opt = kind(named, SGD, **own)
        for _ in range(3):
            opt.step(loss_fn=losses(model), batches=CLIENTS)
        ends.append(weights(model))
    close(*ends, 1e-6)


@pytest.mark.parametrize("kind", [FedSAM, FedASAM, MoFedSAM])
def test_maximizing_is_minimizing_the_negative(kind: Any) -> None:
    ends = []
    for sign in (1.0, -1.0):
        model = network(3, norm=False)
        own = {"maximize": sign < 0, "momentum": 0.9, "local_weight_decay": 0.1, "clip": 1.0}
        opt = fed(kind, model, **own)
        for _ in range(3):
            opt.step(loss_fn=lambda x, y, m=model, s=sign: s * losses(m)(x, y), batches=CLIENTS)
        ends.append(weights(model))
    assert equal(*ends)


def test_schedules_of_the_server_and_of_rho() -> None:
    """lr is the server's: at 0 nothing moves, whatever the clients do."""
    model = network(3, norm=False)
    opt = fed(MoFedSAM, model, schedule=lambda step: 0.5**step)
    decay = torch.optim.lr_scheduler.LambdaLR(opt, lambda r: float(r < 2))
    for r in range(4):
        before = weights(model)
        opt.step(loss_fn=losses(model), batches=CLIENTS)
        assert float(opt.last.perturbation_norm) == pytest.approx(0.2 * 0.5**r)
        assert equal(weights(model), before) == (r >= 2)
        decay.step()


def test_a_selection_moves_what_it_says_at_the_clients() -> None:
    model = network(3)
    rule = Perturbation(NormLayers())
    opt, seen = fed(FedSAM, model, perturbation=rule, local_steps=1), []
    start = weights(model)

    def fn(x: Tensor, y: Tensor) -> Tensor:
        both = zip(model.parameters(), start, strict=True)
        seen.append([not torch.equal(p.detach(), w) for p, w in both])
        return losses(model)(x, y)

    opt.step(loss_fn=fn, batches=CLIENTS)
    assert seen == 3 * [6 * [False], [False, False, True, True, False, False]]
    assert not torch.equal(model[0].weight.detach(), start[0]), "all descend"


# What is said of a round


def test_the_record_is_of_the_first_local_steps() -> None:
    model = network(3, norm=False)
    opt, seen = fed(FedSAM, model), []

    def fn(x: Tensor, y: Tensor) -> Tensor:
        out = losses(model)(x, y)
        seen.append(out.detach())
        return out

    loss = opt.step(loss_fn=fn, batches=CLIENTS)
    assert float(loss) == pytest.approx(float(torch.cat(seen[0::6]).mean()))
    perturbed = torch.cat(seen[1::6]).mean()
    assert float(opt.last.perturbed_loss) == pytest.approx(float(perturbed))
    assert float(opt.last.sharpness) == pytest.approx(float(perturbed - loss), abs=1e-6)
    assert float(opt.last.perturbation_norm) == pytest.approx(0.2)
    assert opt.needs_batch
    assert opt.needs_closure


def test_batches_may_be_nested_and_one_client_may_be_a_batch() -> None:
    ends = []
    for how in ("tuples", "dictionaries", "batch"):
        model = network(3, norm=False)
        opt = fed(FedSAM, model, local_batch_size=4)
        x, y = CLIENTS[0]
        if how == "tuples":
            opt.step(loss_fn=losses(model), batches=[(x, y)])
        elif how == "batch":
            opt.step(loss_fn=losses(model), batch=(x, y))
        else:
            opt.step(
                loss_fn=lambda x, labels, m=model: losses(m)(x, labels["y"]),
                batches=[{"x": x, "labels": {"y": y}}],
            )
        ends.append(weights(model))
    assert equal(ends[0], ends[1])
    assert equal(ends[0], ends[2])


@pytest.mark.parametrize("name", ["fedsam", "fedasam", "mofedsam"])
def test_by_name(name: str) -> None:
    model = network(3)
    opt = create(name, model, SGD, lr=1.0)
    assert METHODS[name].kind == "plan"
    assert opt.param_groups[0]["local_epochs"] == 5
    assert opt.param_groups[0]["beta"] == (0.1 if name == "mofedsam" else None)
    before = weights(model)
    opt.step(loss_fn=losses(model), batches=CLIENTS)
    assert not equal(weights(model), before)


# Mistakes


def test_a_closure_cannot_know_clients() -> None:
    model = network(3)
    opt, before = fed(FedSAM, model), weights(model)
    said = r"batches=\[client_1, client_2, ...\]"
    with pytest.raises(RuntimeError, match=said):
        opt.step(closure_for(opt, model, *CLIENTS[0]))
    losses(model)(*CLIENTS[0]).mean().backward()
    with pytest.raises(RuntimeError, match=said), opt.perturbed():
        pass
    with pytest.raises(RuntimeError, match=said):
        opt.first_step()
    assert equal(weights(model), before)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"local_lr": 0.0}, "local_lr is 0"),
        ({"local_lr": -0.1}, "local_lr is -0.1: give a finite number, at least 0"),
        ({"local_lr": float("nan")}, "local_lr is nan"),
        ({"local_steps": 0}, "local_steps is 0: give a whole number, at least 1"),
        ({"local_steps": 2.0}, "local_steps is 2.0"),
        ({"local_epochs": 0}, "local_epochs is 0"),
        ({"local_epochs": 1, "local_steps": 1}, "either local_steps or local_epochs"),
        ({"local_batch_size": 0}, "local_batch_size is 0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"local_weight_decay": -1e-3}, "local_weight_decay is -0.001"),
        ({"beta": 1.5}, r"beta is 1.5: give a number in \[0, 1\]"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"client_weights": "example"}, "did you mean 'examples'"),
        ({"seed": -1}, "seed is -1"),
        ({"rho": -0.1}, "rho is -0.1"),
    ],
)
def test_arguments_that_make_no_sense(own: dict[str, Any], says: str) -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match=says):
        FedSAM([p], SGD, lr=1.0, **own)


@pytest.mark.parametrize(
    ("name", "value"), [("local_lr", 0.0), ("beta", 2.0), ("clip", -1.0), ("local_epochs", 2)]
)
def test_a_schedule_that_leaves_the_range_is_said_before_the_round(name: str, value: Any) -> None:
    model, calls = network(3), []
    opt, before = fed(MoFedSAM, model), weights(model)
    opt.param_groups[0][name] = value
    with pytest.raises(InputError, match=name):
        opt.step(loss_fn=lambda x, y: calls.append(1), batches=CLIENTS)
    assert not calls
    assert equal(weights(model), before)


def test_groups_agree_in_what_belongs_to_the_round() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="differ in clip"):
        FedSAM([{"params": [a], "clip": 1.0}, {"params": [b]}], SGD, lr=1.0)
    opt = FedSAM([{"params": [a], "local_lr": 0.5, "local_weight_decay": 0.1}], SGD, lr=1.0)
    with pytest.raises(InputError, match="differ in beta"):
        opt.add_param_group({"params": [b], "beta": 0.5})


@pytest.mark.parametrize("clients", [[], [CLIENTS[0], (torch.ones(0, 5), torch.ones(0))]])
def test_no_clients_and_clients_without_data(clients: Any) -> None:
    model = network(3)
    opt, before = fed(FedSAM, model), weights(model)
    with pytest.raises(InputError, match=r"batches is empty|positive number of examples"):
        opt.step(loss_fn=losses(model), batches=clients)
    assert equal(weights(model), before)


class HeavyBall(SGD):
    """A base with hyperparameters of its own under names that rounds have."""

    def __init__(self, params: Any, lr: float, beta: float) -> None:
        super().__init__(params, lr=lr, momentum=beta)
        self.defaults["beta"] = beta


def test_a_base_with_a_beta_of_its_own_is_refused() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="HeavyBall has a hyperparameter 'beta' of its own"):
        MoFedSAM([p], HeavyBall([p], 1.0, 0.9))
