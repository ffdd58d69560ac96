"""The memory instruments on allocations of known size, and what they must not miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from live_bytes import Allocator, LiveBytes
from peak_memory import NETWORKS, SGD, Needs, Task, Way, by_allocator, by_operations, measure, table

KIB = 1024
METERS = [by_operations, by_allocator]


def kib(count: int) -> Tensor:
    return torch.zeros(count * KIB // 4)


def test_storages_count_once_and_until_they_die() -> None:
    with LiveBytes() as meter:
        a = kib(4)
        assert meter.now == 4 * KIB
        view = a.view(32, 32)[:3]
        a.add_(1)
        assert meter.now == 4 * KIB, "views and in-place work take nothing"
        b = a + 1
        assert (meter.now, meter.peak) == (8 * KIB, 8 * KIB)
        del a
        assert meter.now == 8 * KIB, "the view keeps it"
        del view, b
        assert (meter.now, meter.peak) == (0, 8 * KIB)
        meter.reset()
        assert meter.peak == 0


def test_a_storage_that_grows_counts_as_it_is() -> None:
    with LiveBytes() as meter:
        a = kib(4)
        a.resize_(4 * KIB)
        assert meter.now == 16 * KIB
        del a
        assert meter.now == 0


def test_what_autograd_keeps_and_makes_is_seen() -> None:
    with LiveBytes() as meter:
        x = kib(4).requires_grad_()
        y = (x * 2).exp()  # exp keeps its result, the product goes
        assert meter.now == 8 * KIB
        loss = y.sum()
        del y
        assert meter.now == 8 * KIB + 4, "the graph keeps it, and there is the loss"
        loss.backward()
        assert x.grad is not None
        assert meter.now == 8 * KIB + 4, "x, its gradient and the loss"
        assert meter.peak >= 12 * KIB, "the kept result was there beside a gradient"


def test_lists_of_tensors_are_seen() -> None:
    with LiveBytes() as meter:
        made = torch._foreach_add([kib(1), kib(2)], 1.0)
        assert meter.now == 3 * KIB
        assert meter.peak == 6 * KIB
        del made
    assert meter.now == 0


def test_both_instruments_agree() -> None:
    def work(meter: Any) -> None:
        kept = kib(8)
        dropped = kib(16)
        del dropped
        meter.reset()
        more = [kept + 1, kept * 2]
        del more[0]
        more.append(kib(4))

    with LiveBytes() as live:
        work(live)
    with Allocator() as allocator:
        work(allocator)
    assert live.peak == 24 * KIB
    assert 0 <= allocator.peak - live.peak < 64, "scalars inside operations"
    assert allocator.before == 8 * KIB
    assert live.now == allocator.now == 0


def test_the_allocator_sees_inside_kernels() -> None:
    """Work space of sums and sorts is taken and given back inside one operation."""
    with LiveBytes() as live:
        torch.ones(64, 64).cumsum(0).sort().values.median()
    with Allocator() as allocator:
        torch.ones(64, 64).cumsum(0).sort().values.median()
    assert allocator.peak > live.peak > 0


def small() -> tuple[nn.Module, Tensor]:
    """Equal layers, so that copies are easily told apart from activations."""
    return nn.Sequential(*[nn.Linear(96, 96) for _ in range(4)]), torch.randn(2, 96)


COPY = 4 * sum(p.numel() for p in small()[0].parameters())


def base_step(task: Task, wasted: int, *, kept: bool) -> Callable[[], None]:
    """A plain step that copies the parameters so many times, for the step or for good."""
    optimizer = torch.optim.SGD(task.params, **SGD)
    copies: list[Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        task.backward()
        copies[:] = [p.detach().clone() for p in task.params for _ in range(wasted)]
        optimizer.step()
        if not kept:
            copies.clear()

    return step


@pytest.mark.parametrize("read", METERS)
@pytest.mark.parametrize("wasted", [0, 1, 3])
@pytest.mark.parametrize("kept", [False, True])
def test_copies_of_the_parameters_show(read: Any, wasted: int, kept: bool) -> None:
    needs: Needs = read(small, Way(lambda task: base_step(task, wasted, kept=kept)))
    assert needs.resident / COPY == pytest.approx(1 + wasted * kept, abs=0.02)  # momentum
    # old copies stand until the new ones are made
    expected = 2 + wasted + (wasted if kept else 0)
    assert needs.peak / COPY == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_sam_keeps_to_its_bound_and_waste_is_called_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SAM is one copy above the base step; the bound allows two, and three are too much."""
    import peak_memory

    known = peak_memory.ways()
    extra = {f"{n} copies": Way(lambda task, n=n: base_step(task, n, kept=False)) for n in (2, 3)}
    monkeypatch.setattr(peak_memory, "ways", lambda: known | extra)
    forms = ["SAM, closure", "SAM, context", "SAM, two-step", "SAM, batch"]
    result = measure(small, {"plain", *forms, *extra}.__contains__)
    rows = result["ways"]
    for form in forms:
        for meter in ("operations", "allocator"):
            above = rows[form][meter]["peak"] - rows["plain"][meter]["peak"]
            assert above == pytest.approx(1.0, abs=0.05), (form, meter)
            assert rows[form][meter]["resident"] == pytest.approx(2.0, abs=0.02)
    said = {line[:24].strip(): line for line in table("small", result).splitlines()}
    assert "ABOVE" in said["3 copies"]
    assert not any("ABOVE" in said[name] for name in ["2 copies", "plain", *forms])


def test_where_the_peak_is() -> None:
    """A peak in lowland's own arithmetic is named by file and line."""
    from lowland import FSAM
    from peak_memory import closure

    needs = by_operations(small, Way(lambda task: closure(task, FSAM)))
    assert needs.where is not None
    assert needs.where.partition(":")[0].endswith(".py")
    assert by_operations(small, Way(lambda task: base_step(task, 0, kept=False))).where is None


def test_the_networks_are_what_their_names_say() -> None:
    """In the MLP parameters are nearly everything, in the ResNet activations are."""
    peaks = {}
    for name, network in NETWORKS.items():
        copy = 4 * sum(p.numel() for p in network()[0].parameters())
        peaks[name] = by_operations(network, Way(lambda t: base_step(t, 0, kept=False))).peak / copy
    assert peaks["MLP"] < 2.2
    assert peaks["ResNet"] > 4
