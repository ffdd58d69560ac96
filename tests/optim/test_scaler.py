"""Gradient scalers in every form: the same trajectory, and a skip when anything overflows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from forms import NAMES_AND_FORMS, OWN, THREE, form_context, make, on_batch, step_by
from problems import data, equal, losses, network, weights
from scaled import FORMS, by_context, mean_loss, scaler
from torch import Tensor, nn
from torch.amp import GradScaler

from lowland.optim import FSAM, MSAM, SAM, SharpnessAware


@pytest.mark.parametrize(
    ("name", "form"),
    NAMES_AND_FORMS,
)
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_a_scale_that_is_a_power_of_two_changes_nothing(name: str, form: str, base: str) -> None:
    """Scaling by 2^k is exact, so the trajectory is the one without a scaler, bit for bit."""
    model, twin = network(3), network(3)
    opt, plain = make(name, model, base), make(name, twin, base)
    grad_scaler = scaler(growth_interval=2)  # the scale changes on the way
    for i in range(6):
        x, y = data(i)
        loss = losses(model) if form == "batch" else mean_loss(model)
        FORMS[form](opt, loss, grad_scaler, x, y)
        on_batch(plain, twin, losses(twin), (x, y))
        assert equal(weights(model), weights(twin)), i
    assert equal(list(model.buffers()), list(twin.buffers()))
    assert grad_scaler.get_scale() == 2.0**15
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        for key, value in plain.state[q].items():
            assert torch.equal(torch.as_tensor(opt.state[p][key]), torch.as_tensor(value)), key


class Overflow:
    """The mean loss, whose backward overflows in the chosen passes (from 0) of a step."""

    def __init__(self, model: nn.Module, passes: set[int]) -> None:
        self.model, self.passes, self.count = model, passes, 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        loss = mean_loss(self.model)(x, y)
        if self.count in self.passes:  # finite in the forward, infinite times the scale
            loss = loss * 1e-10 + (loss - loss.detach()) * 3e37
        self.count += 1
        return loss


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [{0}, {1}, {0, 1}])
@pytest.mark.parametrize("kind", [SAM, FSAM])
def test_overflow_in_either_pass_skips_the_step(form: str, bad: set[int], kind: Any) -> None:
    """Weights, state and statistics of the base stay; the scale halves, as without SAM."""
    model = network(3)
    opt = kind(model.parameters(), torch.optim.Adam, rho=0.3, lr=0.1, model=model)
    grad_scaler = scaler()
    FORMS[form](opt, mean_loss(model), grad_scaler, *data(0))
    before = weights(model)
    state = {k: torch.as_tensor(v).clone() for p in opt.state for k, v in opt.state[p].items()}
    with pytest.warns(RuntimeWarning, match="not finite"):
        FORMS[form](opt, Overflow(model, bad), grad_scaler, *data(1))
    assert equal(weights(model), before)
    after = {k: torch.as_tensor(v) for p in opt.state for k, v in opt.state[p].items()}
    assert all(torch.equal(after[k], v) for k, v in state.items())
    assert grad_scaler.get_scale() == 2.0**11
    assert opt.last is not None
    assert bool(opt.last.skipped)
    assert int(opt.last.skipped_total) == 1
    FORMS[form](opt, mean_loss(model), grad_scaler, *data(2))  # and goes on
    assert not equal(weights(model), before)
    assert grad_scaler.get_scale() == 2.0**11
    assert not bool(opt.last.skipped)


@pytest.mark.parametrize("form", THREE)
def test_rho_zero_is_the_base_optimizer_under_the_same_scaler(form: str) -> None:
    model, twin = network(3), network(3)
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.0, lr=0.1, momentum=0.9)
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    ours, stock = scaler(init_scale=3000.0), scaler(init_scale=3000.0)  # not a power of two
    for i in range(5):
        x, y = data(i)
        if i == 2:
            with pytest.warns(RuntimeWarning, match="not finite"):
                FORMS[form](opt, Overflow(model, {0}), ours, x, y)
        else:
            FORMS[form](opt, mean_loss(model), ours, x, y)
        base.zero_grad()
        stock.scale(Overflow(twin, {0} if i == 2 else set())(x, y)).backward()
        stock.step(base)
        stock.update()
        assert equal(weights(model), weights(twin)), i
        assert ours.state_dict() == stock.state_dict()


def test_clipping_after_the_pass_clips_the_true_gradient() -> None:
    model, twin = network(3), network(3)
    opt, plain = make("sam", model), make("sam", twin)
    grad_scaler = scaler()
    for i in range(4):
        x, y = data(i)
        by_context(opt, mean_loss(model), grad_scaler, x, y, clip=0.05)
        plain.zero_grad()
        mean_loss(twin)(x, y).backward()
        with plain.perturbed():
            mean_loss(twin)(x, y).backward()
        size = nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        assert size > 0.05
        plain.step()
    assert equal(weights(model), weights(twin))


def test_clipping_and_overflow_together() -> None:
    model = network(3)
    opt, grad_scaler = make("sam", model), scaler()
    before = weights(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        by_context(opt, Overflow(model, {1}), grad_scaler, *data(0), clip=1.0)
    assert equal(weights(model), before)
    assert grad_scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("divided", [False, True])
def test_micro_batches_each_with_an_epsilon(divided: bool) -> None:
    model, twin = network(3, norm=False), network(3, norm=False)
    opt, plain = make("sam", model), make("sam", twin)
    grad_scaler = scaler()

    def go(opt: SharpnessAware, net: nn.Module, use: GradScaler | None) -> None:
        x, y = data(5)

        def backward(part: slice) -> None:
            loss = mean_loss(net)(x[part], y[part]) / (2 if divided else 1)
            (loss if use is None else use.scale(loss)).backward()

        opt.zero_grad()
        for part, last in ((slice(0, 5), False), (slice(5, 12), True)):
            backward(part)
            examples = 1 if divided else part.stop - part.start
            with opt.perturbed(last=last, scaler=use, divided=divided, examples=examples):
                backward(part)
        if use is None:
            opt.step()
        else:
            use.step(opt)
            use.update()

    for _ in range(3):
        go(opt, model, grad_scaler)
        go(plain, twin, None)
    assert equal(weights(model), weights(twin))


@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("fails", [None, 0, 1])
def test_two_optimizers_share_a_scaler(form: str, fails: int | None) -> None:
    """As in adversarial training: each steps once between two updates. Where one overflows, it
    alone skips, and the scale backs off once."""
    models, twins = [network(1), network(2)], [network(1), network(2)]
    ours = [make("sam", m) for m in models]
    plain = [make("sam", m) for m in twins]
    grad_scaler = scaler()
    for i in range(3):
        for j, (opt, model) in enumerate(zip(ours, models, strict=True)):
            bad = i == 1 and j == fails
            loss = Overflow(model, {1} if bad else set())

            def closure(opt: Any = opt, loss: Any = loss, i: int = i) -> Tensor:
                opt.zero_grad()
                value: Tensor = loss(*data(i))
                grad_scaler.scale(value).backward()
                return value

            with pytest.warns(RuntimeWarning, match="not finite") if bad else nullcontext():
                step_by(form, opt, closure, scaler=grad_scaler)
        grad_scaler.update()
        for j, (opt, model) in enumerate(zip(plain, twins, strict=True)):
            if not (i == 1 and j == fails):
                form_context(opt, model, *data(i))
            else:
                model(data(i)[0])  # the first pass has been: its running statistics count
        for model, twin in zip(models, twins, strict=True):
            assert equal(weights(model), weights(twin)), i
            assert equal(list(model.buffers()), list(twin.buffers())), i
    assert grad_scaler.get_scale() == 2.0 ** (12 if fails is None else 11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sam", "f-sam", "looksam"])
def test_autocast(form: str, dtype: torch.dtype, name: str) -> None:
    """Against the same steps in float64, to what the half types resolve."""
    model, exact = network(3), network(3, torch.float64)
    settings: dict[str, Any] = {**OWN.get(name, {}), "rho": 0.1, "momentum": 0.0}
    opt, reference = make(name, model, **settings), make(name, exact, **settings)
    grad_scaler = scaler(enabled=dtype == torch.float16)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            value = losses(model)(x, y)
        return value if form == "batch" else value.mean()

    for i in range(4):
        x, y = data(i)
        FORMS[form](opt, loss, grad_scaler, x, y)
        reference.step(loss_fn=losses(exact), batch=(x.double(), y))
    resolution = torch.finfo(dtype).eps
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        assert p.dtype == torch.float32
        assert (p.double() - q).abs().max() < 4 * resolution * (1 + q.abs().max())


def test_a_disabled_scaler_is_none() -> None:
    model, twin = network(3), network(3)
    opt, plain = make("sam", model), make("sam", twin)
    for i in range(3):
        for form in THREE:
            FORMS[form](opt, mean_loss(model), scaler(enabled=False), *data(i))
            form_context(plain, twin, *data(i))
    assert equal(weights(model), weights(twin))


def test_m_sam_unscales_every_part() -> None:
    model = network(3)
    opt = MSAM(model.parameters(), torch.optim.SGD, m=5, rho=0.3, lr=0.1, model=model)
    grad_scaler = scaler()
    before = weights(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        opt.step(loss_fn=Overflow(model, {3}), batch=data(0), scaler=grad_scaler)
    grad_scaler.update()
    assert equal(weights(model), before)
    assert grad_scaler.get_scale() == 2.0**11
