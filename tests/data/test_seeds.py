"""Counted randomness: addresses and their generators."""

from __future__ import annotations

import hashlib
import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.seeds import derived_seed, generator

KEYS = st.lists(st.integers() | st.text(), max_size=4)


def test_is_the_start_of_sha256_and_never_changes() -> None:
    digest = hashlib.sha256(b'[0, "order", 7]').hexdigest()
    assert derived_seed(0, "order", 7) == int(digest[:16], 16) // 2


@settings(deadline=None, max_examples=200)
@given(KEYS, KEYS)
def test_different_addresses_give_different_seeds(
    one: list[int | str], two: list[int | str]
) -> None:
    assert (derived_seed(*one) == derived_seed(*two)) == (one == two)


def test_keys_cannot_run_together() -> None:
    addresses = [(1, 11), (11, 1), (111,), ("1", 11), ("1, 11",), ("a", "b"), ("ab",), ()]
    seeds = [derived_seed(*keys) for keys in addresses]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_fresh_and_unrelated() -> None:
    draws = [torch.rand(4, generator=generator("cpu", 0, "a", step)) for step in range(50)]
    again = torch.rand(4, generator=generator("cpu", 0, "a", 3))
    assert torch.equal(draws[3], again)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator("cpu", 1))
    assert torch.equal(torch.get_rng_state(), before)
