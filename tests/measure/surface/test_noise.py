"""Noise with an address: SplitMix64 by its definition, and a standard normal distribution."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest, norm

from lowland.core.seeds import derived_seed
from lowland.measure.surface.noise import standard_normal

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def split_mix(x: int) -> int:
    """The finalizer, on Python's integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def by_hand(row: int, place: int, *address: int | str) -> float:
    start = split_mix((row * GOLDEN + derived_seed(*address)) & WORD)
    bits = split_mix((start + (place + 1) * GOLDEN) & WORD)
    return float(norm.ppf(((bits >> 11) + 0.5) * 2.0**-53))


def test_the_finalizer_gives_the_published_sequence() -> None:
    """SplitMix64 seeded with 0, as in the reference implementation's test vector."""
    assert split_mix(GOLDEN) == 0xE220A8397B1DCDAF
    assert split_mix(2 * GOLDEN & WORD) == 0x6E789E6AA1B965F4


def test_every_number_is_its_definition() -> None:
    rows = torch.tensor([0, 3, 10**12])
    found = standard_normal(rows, (2, 3), 5, "a block", 1)
    for i, row in enumerate(rows.tolist()):
        for place, number in enumerate(found[i].flatten().tolist()):
            assert number == pytest.approx(by_hand(row, place, 5, "a block", 1), rel=1e-9)


def test_a_row_does_not_depend_on_the_others() -> None:
    whole = standard_normal(torch.arange(100), (4, 5), 0)
    parts = [standard_normal(part, (4, 5), 0) for part in torch.arange(100).split(7)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(standard_normal(torch.tensor([41]), (4, 5), 0)[0], whole[41])
    assert not torch.equal(whole, standard_normal(torch.arange(100), (4, 5), 1))
    assert standard_normal(torch.arange(3), (), 0).shape == (3,)


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    standard_normal(torch.arange(5), (3,), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("axis", [0, 1])
def test_it_is_standard_normal_and_uncorrelated(axis: int) -> None:
    """Fixed seed: Kolmogorov-Smirnov at 1e-4, neighbours in rows and places within five errors."""
    z = standard_normal(torch.arange(400), (500,), "distribution")
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    neighbours = (z * z.roll(1, axis)).mean()
    assert abs(float(neighbours)) < 5 / z.numel() ** 0.5
    assert float((z.mean(axis) * z.shape[axis] ** 0.5).abs().max()) < 5.5
