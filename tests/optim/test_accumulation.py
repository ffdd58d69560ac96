"""k micro-batches in one step: full SAM (2k passes, one ε) or m-SAM (an ε for each), by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from forms import FORMS, TWO_PASS, make
from problems import data, equal, losses, network, weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowland.optim import MSAM, SAM

DOUBLE = torch.float64
RAGGED = (5, 4, 3)


def parts(i: int, sizes: tuple[int, ...] = RAGGED) -> list[tuple[Tensor, Tensor]]:
    x, y = data(i, sum(sizes), DOUBLE)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(left, right, strict=True)
    )


def pair(norm: bool = False) -> tuple[nn.Module, nn.Module]:
    return network(3, DOUBLE, norm=norm), network(3, DOUBLE, norm=norm)


@pytest.mark.parametrize("name", [n for n in TWO_PASS if n != "sam-on"])
@pytest.mark.parametrize("mean", [False, True])
def test_full_sam_over_micro_batches_is_the_whole_batch(name: str, mean: bool) -> None:
    """Weighted by examples, whether loss_fn gives each loss or their mean."""
    model, twin = pair()
    opt, whole = make(name, model), make(name, twin)
    calls = 0

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        found = losses(model)(x, y)
        return found.mean() if mean else found

    for i in range(4):
        passes = 2 if opt.needs_perturbation else 1
        calls = 0
        loss = opt.step(loss_fn=loss_fn, batches=parts(i))
        assert calls == passes * len(RAGGED)
        expected = whole.step(loss_fn=losses(twin), batch=data(i, sum(RAGGED), DOUBLE))
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert close(weights(model), weights(twin))


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("form", ["closure", "context", "two-step"])
def test_full_sam_in_the_callers_own_loop(form: str, divided: bool) -> None:
    """The caller's k backward() calls add up in .grad; undivided, u is k times the mean."""
    sizes = (4, 4, 4)
    model, twin = pair()
    k = len(sizes)
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1 if divided else 0.1 / k)
    whole = SAM(twin.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)

    def passes(i: int) -> Tensor:
        total = torch.zeros((), dtype=DOUBLE)
        for x, y in parts(i, sizes):
            loss = losses(model)(x, y).mean() / (k if divided else 1)
            loss.backward()
            total += loss.detach()
        return total

    def closure(i: int) -> Tensor:
        opt.zero_grad()
        return passes(i)

    for i in range(4):
        if form == "closure":
            opt.step(lambda i=i: closure(i))
        else:
            closure(i)
            if form == "context":
                with opt.perturbed():
                    passes(i)
                opt.step()
            else:
                opt.first_step()
                passes(i)
                opt.second_step()
        whole.step(loss_fn=losses(twin), batch=data(i, 12, DOUBLE))
    assert close(weights(model), weights(twin))


def test_an_epsilon_for_each_micro_batch_by_batches() -> None:
    model, twin = pair(norm=True)
    opt = MSAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, model=model)
    split = MSAM(twin.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, m=5, model=twin)
    for i in range(4):
        opt.step(loss_fn=losses(model), batches=parts(i, (5, 5, 2)))
        split.step(loss_fn=losses(twin), batch=data(i, 12, DOUBLE))
    assert equal(weights(model), weights(twin)), "the same parts, bit for bit"
    assert equal(list(model.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("divided", [False, True])
def test_an_epsilon_for_each_micro_batch_in_the_callers_loop(divided: bool) -> None:
    """`examples` weighs undivided losses; `divided` adds up what the caller has weighed."""
    model, twin = pair()
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    split = MSAM(twin.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    for i in range(4):
        batches = parts(i)
        for j, (x, y) in enumerate(batches):
            weight = len(x) / sum(RAGGED) if divided else 1.0

            def backward(x: Tensor = x, y: Tensor = y, weight: float = weight) -> None:
                (losses(model)(x, y).mean() * weight).backward()

            opt.zero_grad()
            backward()
            settings: dict[str, Any] = {"divided": True} if divided else {"examples": len(x)}
            with opt.perturbed(last=j == len(batches) - 1, **settings):
                backward()
        opt.step()
        split.step(loss_fn=losses(twin), batches=batches)
    assert close(weights(model), weights(twin))


def test_clipping_acts_on_what_is_descended() -> None:
    """Between the pass and step(); with a closure, in a step hook. ε is what it was."""
    model, twin = pair()
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=1.0)
    hooked = SAM(twin.parameters(), torch.optim.SGD, rho=0.3, lr=1.0)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(twin.parameters(), 0.01)

    hooked.register_step_pre_hook(clip)
    for i in range(3):
        x, y = data(i, dtype=DOUBLE)
        before = weights(model)
        opt.zero_grad()
        losses(model)(x, y).mean().backward()
        with opt.perturbed():
            losses(model)(x, y).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        opt.step()
        hooked.step(loss_fn=losses(twin), batch=(x, y))
        moved = [a - b for a, b in zip(weights(model), before, strict=True)]
        assert abs(torch.cat([m.flatten() for m in moved]).norm() - 0.01) < 1e-6
    assert close(weights(model), weights(twin))


class Checkpointed(nn.Module):
    """The small network with its first half recomputed in backward, dropout included."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        inner = network(3, DOUBLE)
        self.head, self.tail = inner[:3], inner[3]  # type: ignore[index]
        self.drop, self.recompute = nn.Dropout(0.3), recompute

    def forward(self, x: Tensor) -> Tensor:
        def half(x: Tensor) -> Tensor:
            return self.drop(self.head(x))

        middle = checkpoint(half, x, use_reentrant=False) if self.recompute else half(x)
        return self.tail(middle)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("form", "replay"),
    [(form, False) for form in FORMS] + [("closure", True), ("batch", True)],
)
def test_activation_checkpointing(form: str, replay: bool) -> None:
    """Recomputation in backward happens at the weights of its own pass, with its own dropout.

    BatchNorm counts the recomputed forward of the first pass too, as in plain training.
    """
    results, counts = [], []
    for recompute in (False, True):
        model = Checkpointed(recompute)
        opt = SAM(
            model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, model=model, replay_rng=replay
        )
        plain = copy.deepcopy(model)  # of the weights before every step, without SAM
        torch.manual_seed(7)
        for i in range(4):
            x, y = data(i, dtype=DOUBLE)
            plain.load_state_dict(model.state_dict())
            state = torch.get_rng_state()
            losses(plain)(x, y).mean().backward()
            torch.set_rng_state(state)
            FORMS[form](opt, model, x, y)
            assert equal(list(model.buffers()), list(plain.buffers()))
        results.append(weights(model))
        counts.append(int(model.head[1].num_batches_tracked))
    assert equal(*results)
    assert counts == [4, 8]


@pytest.mark.parametrize("divided", [False, True])
def test_losses_of_micro_batches_are_recorded(divided: bool) -> None:
    """Their mean by examples, or the sum of what was divided: the loss of the whole batch."""
    model, twin = pair()
    opt, whole = make("sam", model), make("sam", twin)
    batches = parts(0)
    for j, (x, y) in enumerate(batches):
        share = len(x) / sum(RAGGED) if divided else 1.0
        loss = losses(model)(x, y).mean() * share
        loss.backward()
        settings: dict[str, Any] = {"divided": True} if divided else {"examples": len(x)}
        with opt.perturbed(last=j == len(batches) - 1, loss=loss, **settings):
            losses(model)(x, y).mean().backward()
    opt.step()
    whole.step(loss_fn=losses(twin), batch=data(0, sum(RAGGED), DOUBLE))
    assert opt.last is not None
    assert whole.last is not None
    assert abs(opt.last.metrics()["loss"] - whole.last.metrics()["loss"]) < 1e-12


def test_losses_given_in_the_context_are_recorded() -> None:
    model, twin = pair(norm=True)
    opt, whole = make("sam", model), make("sam", twin)
    for i in range(2):
        x, y = data(i, dtype=DOUBLE)
        opt.zero_grad()
        loss = losses(model)(x, y).mean()
        loss.backward()
        with opt.perturbed(loss=loss) as away:
            second = losses(model)(x, y).mean()
            second.backward()
            away.record(second)
        opt.step()
        whole.step(loss_fn=losses(twin), batch=(x, y))
    assert opt.last is not None
    assert whole.last is not None
    assert opt.last.metrics() == whole.last.metrics()
    assert set(opt.last.metrics()) == {
        "loss", "perturbed_loss", "sharpness", "grad_norm", "perturbation_norm", "skipped",
        "skipped_total",
    }  # fmt: skip
    assert opt.last.metrics()["sharpness"] > 0
    base = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.0)
    base.step(loss_fn=losses(model), batch=(x, y))
    assert base.last is not None
    assert set(base.last.metrics()) == {"loss", "skipped", "skipped_total"}


class TestMistakes:
    def test_m_and_micro_batches(self) -> None:
        model, _ = pair()
        opt = MSAM(model.parameters(), torch.optim.SGD, m=3, lr=0.1)
        with pytest.raises(ValueError, match="batches= beside m=3"):
            opt.step(loss_fn=losses(model), batches=parts(0))

    def test_neither(self) -> None:
        model, _ = pair()
        opt = MSAM(model.parameters(), torch.optim.SGD, lr=0.1)
        with pytest.raises(ValueError, match=r"takes micro-batches: pass batches="):
            opt.step(loss_fn=losses(model), batch=data(0, dtype=DOUBLE))

    @pytest.mark.parametrize("batches", [[], ()])
    def test_no_batches(self, batches: Any) -> None:
        model, _ = pair()
        opt = make("sam", model)
        with pytest.raises(ValueError, match="at least one micro-batch"):
            opt.step(loss_fn=losses(model), batches=batches)

    def test_batch_and_batches(self) -> None:
        model, _ = pair()
        opt = make("sam", model)
        with pytest.raises(ValueError, match="step takes"):
            opt.step(loss_fn=losses(model), batch=data(0), batches=parts(0))

    def test_divided_and_examples(self) -> None:
        model, _ = pair()
        with pytest.raises(ValueError, match="leave out examples="):
            make("sam", model).perturbed(divided=True, examples=3)

    def test_divided_here_and_not_there(self) -> None:
        model, _ = pair()
        opt = make("sam", model)
        before = weights(model)
        for j, (x, y) in enumerate(parts(0)[:2]):
            losses(model)(x, y).mean().backward()
            if j:
                with (
                    pytest.raises(ValueError, match="divided= differs"),
                    opt.perturbed(divided=True),
                ):
                    pass
            else:
                with opt.perturbed(last=False):
                    losses(model)(x, y).mean().backward()
        assert equal(weights(model), before)
