"""SAF and MESA against references written from their formulas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from family import BASE, DTYPES, SGD, close, within
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import data, equal, losses, network, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from lowland.core.errors import InputError
from lowland.optim import MESA, SAF, SharpnessAware
from lowland.optim.trajectory import AVERAGE, RECORD, WRITTEN, divergence

N, B = 20, 5
PER_EPOCH = N // B


def with_logits(model: nn.Module) -> Any:
    def fn(x: Tensor, y: Tensor, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = model(x)
        return cross_entropy(z, y, reduction="none"), z

    return fn


def order(epoch: int) -> list[Tensor]:
    """The examples' numbers in the batches of an epoch."""
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
    return list(shuffled.split(B))


def term(old: Tensor, new: Tensor, temperature: float) -> Tensor:
    """T²·KL by its sum over classes."""
    p, q = softmax(old / temperature, -1), log_softmax(new / temperature, -1)
    return temperature**2 * (p * (p.log() - q)).sum(-1)


# The term itself


@given(st.integers(0, 10**6), st.floats(0.5, 8.0))
@settings(max_examples=25, deadline=None)
def test_the_divergence_and_its_gradient(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 3
    new = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 3
    new.requires_grad_(True)
    each = divergence(old, new, temperature)
    torch.testing.assert_close(each, term(old, new, temperature))
    oracle = kl_div(
        log_softmax(new / temperature, -1), softmax(old / temperature, -1), reduction="batchmean"
    )
    torch.testing.assert_close(each.mean(), temperature**2 * oracle)
    (gradient,) = torch.autograd.grad(each.sum(), new)
    expected = temperature * (softmax(new / temperature, -1) - softmax(old / temperature, -1))
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-9, atol=1e-9)


def test_the_same_logits_have_no_divergence_and_no_gradient() -> None:
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    each = divergence(z, z, 5.0)
    assert each.abs().max() < 1e-14
    (gradient,) = torch.autograd.grad(each.sum(), z)
    assert gradient.abs().max() < 1e-14


# SAF


@DTYPES
@pytest.mark.parametrize(("back", "start"), [(1, 0), (2, 9), (3, 4)])
def test_saf_is_its_formula(dtype: torch.dtype, back: int, start: int) -> None:
    """Four epochs and more over shuffled examples, beside a dictionary of everything said."""
    x, y = data(0, n=N, dtype=dtype)
    model = network(3, dtype)
    twin = copy.deepcopy(model)
    opt = SAF(
        model.parameters(), SGD, examples=N, steps_per_epoch=PER_EPOCH, back=back, start=start,
        temperature=3.0, rho=0.4, **BASE,
    )  # fmt: skip
    base = SGD(twin.parameters(), **BASE)
    said: dict[tuple[int, int], Tensor] = {}
    count = 0
    for epoch in range(6):
        for numbers in order(epoch):
            opt.step(loss_fn=with_logits(model), batch=(x[numbers], y[numbers], numbers))
            z = twin(x[numbers])
            loss = cross_entropy(z, y[numbers])
            if count >= start and epoch >= back:
                old = torch.stack([said[epoch - back, int(i)] for i in numbers])
                loss = loss + 0.4 * term(old, z, 3.0).mean()
            said.update({(epoch, int(i)): z[j].detach() for j, i in enumerate(numbers)})
            base.zero_grad()
            loss.backward()
            base.step()
            close(weights(model), weights(twin), within(dtype))
            count += 1
    assert opt.last is not None
    torch.testing.assert_close(opt.last.loss, loss.detach(), rtol=1e-4, atol=1e-5)


def test_the_record_is_a_ring_of_epochs() -> None:
    """What is looked up is exactly that of the epoch `back` ago, whatever came in between."""
    model = network(3)
    opt = saf(model, back=2, rho=0.0)
    home = next(iter(model.parameters()))
    x, y = data(0, n=N)
    said: dict[int, Tensor] = {}
    for epoch in range(5):
        said[epoch] = torch.zeros(N, 3)
        for numbers in order(epoch):
            said[epoch][numbers] = copy.deepcopy(model)(x[numbers]).detach()
            opt.step(loss_fn=with_logits(model), batch=(x[numbers], y[numbers], numbers))
        held, written = opt.state[home][RECORD], opt.state[home][WRITTEN]
        assert held.shape == (3, N, 3)
        for old in range(max(0, epoch - 2), epoch + 1):
            assert equal([held[old % 3]], [said[old]])
            assert bool((written[old % 3] == old + 1).all())


def test_examples_without_a_past_have_no_term() -> None:
    """A record that was lost, or an example that was left out then: the plain loss."""
    model, plain = network(3), network(3)
    opt, other = saf(model, back=1, start=0), saf(plain, rho=0.0)
    x, y = data(0, n=N)
    first, second = torch.arange(0, B), torch.arange(B, 2 * B)
    for numbers in [*[first] * PER_EPOCH, second]:
        opt.step(loss_fn=with_logits(model), batch=(x[numbers], y[numbers], numbers))
        other.step(loss_fn=with_logits(plain), batch=(x[numbers], y[numbers], numbers))
    assert equal(weights(model), weights(plain))
    for net, o in ((model, opt), (plain, other)):
        o.step(loss_fn=with_logits(net), batch=(x[first], y[first], first))
    assert not equal(weights(model), weights(plain)), "these were there an epoch ago"


def test_micro_batches_are_the_batch() -> None:
    ends = []
    x, y = data(0, n=N, dtype=torch.float64)
    for split in (1, 2, 4):
        model = network(3, torch.float64, norm=False)
        opt = saf(model, back=1, start=0)
        for epoch in range(3):
            for numbers in order(epoch):
                parts = [(x[i], y[i], i) for i in numbers.tensor_split(split)]
                opt.step(loss_fn=with_logits(model), batches=parts)
        ends.append(weights(model))
    close(ends[0], ends[1], 1e-12)
    close(ends[0], ends[2], 1e-12)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_record_survives_a_checkpoint_in_its_type(dtype: torch.dtype | None) -> None:
    model = network(3)
    opt = saf(model, back=1, start=0, dtype=dtype)
    x, y = data(0, n=N)

    def epoch(net: nn.Module, o: SharpnessAware, number: int) -> None:
        for i in order(number):
            o.step(loss_fn=with_logits(net), batch=(x[i], y[i], i))

    epoch(model, opt, 0)
    other = copy.deepcopy(model)
    again = saf(other, back=1, start=0, dtype=dtype)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert again.state[next(iter(other.parameters()))][RECORD].dtype == (dtype or torch.float32)
    for number in (1, 2):
        epoch(model, opt, number)
        epoch(other, again, number)
    assert equal(weights(model), weights(other))


def saf(model: nn.Module, **own: Any) -> SAF:
    given = {"examples": N, "steps_per_epoch": PER_EPOCH, **BASE, **own}
    return SAF(model.parameters(), SGD, **given)


@pytest.mark.parametrize(
    ("numbers", "index"),
    [
        (None, 2),
        (torch.arange(B) + N - 2, 2),
        (torch.arange(B) - 1, 2),
        (torch.rand(B), 2),
        (torch.zeros(B, 1, dtype=torch.int64), 2),
        (torch.arange(B), "index"),
    ],
    ids=["none", "too large", "negative", "not whole", "two dimensions", "another place"],
)
def test_saf_without_usable_numbers_says_what_is_missing(numbers: Any, index: Any) -> None:
    model = network(3)
    opt, before = saf(model, index=index), weights(model)
    x, y = data(0, n=B)
    batch = (x, y) if numbers is None else (x, y, numbers)
    with pytest.raises(InputError, match="numbers, 0 to 19, at"):
        opt.step(loss_fn=with_logits(model), batch=batch)
    assert equal(weights(model), before)


@pytest.mark.parametrize("kind", [SAF, MESA])
def test_a_loss_without_logits_is_refused(kind: Any) -> None:
    model = network(3)
    own = {"examples": N, "steps_per_epoch": PER_EPOCH} if kind is SAF else {}
    opt = kind(model.parameters(), SGD, **BASE, **own)
    x, y = data(0, n=B)
    with pytest.raises(InputError, match=f"{kind.__name__} compares logits"):
        opt.step(loss_fn=lambda x, y, i: losses(model)(x, y), batch=(x, y, torch.arange(B)))
    with pytest.raises(RuntimeError, match="loss_fn="):
        opt.step(lambda: None)


@pytest.mark.parametrize(
    ("kind", "own", "said"),
    [
        (SAF, {"examples": None}, "give examples="),
        (SAF, {"examples": 0}, "examples"),
        (SAF, {"back": 0}, "back"),
        (SAF, {"temperature": 0.0}, "temperature is 0"),
        (MESA, {"temperature": -1.0}, "temperature"),
        (MESA, {"decay": 1.0}, r"decay is 1\.0"),
        (MESA, {"decay": -0.1}, "decay"),
    ],
)
def test_what_makes_no_sense_is_said(kind: Any, own: dict[str, Any], said: str) -> None:
    given = {"examples": N, "steps_per_epoch": PER_EPOCH} if kind is SAF else {}
    with pytest.raises(InputError, match=said):
        kind(network().parameters(), SGD, lr=0.1, **{**given, **own})


# MESA


@DTYPES
@pytest.mark.parametrize("start", [0, 2])
def test_mesa_is_its_formula(dtype: torch.dtype, start: int) -> None:
    model = network(3, dtype)
    twin, average = copy.deepcopy(model), copy.deepcopy(model)
    opt = MESA(
        model.parameters(), SGD, model=model, decay=0.6, temperature=2.0, rho=0.7, start=start,
        **BASE,
    )  # fmt: skip
    base = SGD(twin.parameters(), **BASE)
    for i in range(6):
        x, y = data(i, dtype=dtype)
        opt.step(loss_fn=with_logits(model), batch=(x, y))
        with torch.no_grad():
            for a, w in zip(average.parameters(), twin.parameters(), strict=True):
                a.copy_(0.6 * a + 0.4 * w)
            old = average(x)
        z = twin(x)
        loss = cross_entropy(z, y)
        if i >= start:
            loss = loss + 0.7 * term(old, z, 2.0).mean()
        base.zero_grad()
        loss.backward()
        base.step()
        close(weights(model), weights(twin), within(dtype))
        close(list(model.buffers()), list(twin.buffers()), within(dtype))
        held = [opt.state[p][AVERAGE] for p in model.parameters()]
        close(held, weights(average), within(dtype))


def test_an_average_without_memory_leaves_no_term() -> None:
    """d = 0: w_avg is w, so the logits are the same and the step is the base optimizer's."""
    model, twin = network(3), network(3)
    opt = MESA(model.parameters(), SGD, decay=0.0, **BASE)
    base = SGD(twin.parameters(), **BASE)
    for i in range(5):
        x, y = data(i)
        opt.step(loss_fn=with_logits(model), batch=(x, y))
        base.zero_grad()
        losses(twin)(x, y).mean().backward()
        base.step()
        close(weights(model), weights(twin), 1e-6)


def test_the_average_of_half_precision_weights_is_wide() -> None:
    """In bfloat16, 0.9998·a + 0.0002·w would never move."""
    model = network(3, torch.bfloat16)
    opt = MESA(model.parameters(), SGD, lr=0.5, decay=0.9998)
    for i in range(3):
        opt.step(loss_fn=with_logits(model), batch=data(i, dtype=torch.bfloat16))
    held = [opt.state[p][AVERAGE] for p in model.parameters()]
    assert {t.dtype for t in held} == {torch.float32}
    begin = weights(network(3, torch.bfloat16))
    moved = [(a - b.float()).abs().max() for a, b in zip(held, begin, strict=True)]
    assert 0 < max(moved) < 1e-2


def test_the_forward_of_the_average_draws_the_numbers_of_the_other_if_asked() -> None:
    """Dropout differs between the two forwards unless replay_rng: then d = 0 leaves no term."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    terms = []
    for replay in (False, True):
        opt = MESA(model.parameters(), SGD, lr=0.0, decay=0.0, rho=1.0, replay_rng=replay)
        torch.manual_seed(5)
        opt.step(loss_fn=with_logits(model), batch=data(0))
        torch.manual_seed(5)
        with torch.no_grad():
            first, second = (losses(model)(*data(0)).mean() for _ in range(2))
        assert opt.last is not None
        assert opt.last.loss is not None
        terms.append(float(opt.last.loss - (first if replay else second)))
    assert terms[0] > 1e-2
    assert abs(terms[1]) < 1e-5
