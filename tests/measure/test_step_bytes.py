"""Bytes alive in a step, on steps that take a known number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure import step_bytes

KIB = 1024


def kib(count: int) -> Tensor:
    return torch.zeros(count * KIB // 4)


def growing(sizes: dict[int, int], seen: list[int]) -> Callable[[], Callable[[int], object]]:
    """4 KiB stay; step number n takes `sizes[n]` KiB, 1 if it is not there, and lets them go."""

    def make() -> Callable[[int], object]:
        held = kib(4)

        def step(number: int) -> None:
            seen.append(number)
            held.add_(kib(sizes.get(number, 1)).sum())

        return step

    return make


@pytest.mark.parametrize(
    ("warm_up", "steps", "peak"), [(0, 1, 4 + 64), (1, 4, 4 + 1), (1, 5, 4 + 8), (0, 6, 4 + 64)]
)
def test_the_worst_of_the_steps_that_count(warm_up: int, steps: int, peak: int) -> None:
    seen: list[int] = []
    found = step_bytes(growing({0: 64, 5: 8}, seen), warm_up=warm_up, steps=steps)
    assert seen == list(range(warm_up + steps))
    assert found.value == pytest.approx(peak * KIB, abs=16)  # the sums themselves
    assert found.resting == 4 * KIB
    assert (found.warm_up, found.steps, found.n) == (warm_up, steps, steps)
    assert "worst moment" in found.definition


def test_a_copy_of_the_weights_is_seen() -> None:
    """SAM keeps one between steps, and plain SGD none."""

    def make(copies: bool) -> Callable[[], Callable[[int], object]]:
        def build() -> Callable[[int], object]:
            model = nn.Linear(256, 256, bias=False)
            kept = [p.detach().clone() for p in model.parameters()] if copies else []

            def step(number: int) -> None:
                model.zero_grad()
                model(torch.ones(1, 256)).sum().backward()
                assert len(kept) == copies

            return step

        return build

    weights = 256 * 256 * 4
    plain, copied = (step_bytes(make(copies)) for copies in (False, True))
    assert copied.value - plain.value == weights
    assert copied.resting - plain.resting == weights
    assert plain.resting == 2 * weights  # and the gradient


def test_random_generators_are_as_before() -> None:
    before = torch.get_rng_state()

    def make() -> Callable[[int], object]:
        return lambda number: torch.rand(3)

    step_bytes(make)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("warm_up", "steps"), [(-1, 2), (0, 0)])
def test_numbers_that_make_no_measurement(warm_up: int, steps: int) -> None:
    with pytest.raises(InputError, match="give 0 or more, and 1 or more"):
        step_bytes(growing({}, []), warm_up=warm_up, steps=steps)
