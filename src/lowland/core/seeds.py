"""Randomness that is counted, not carried: every draw has an address."""

from __future__ import annotations

import hashlib
import json

import torch


def derived_seed(*keys: int | str) -> int:
    """A 63-bit seed for this address, for example ``derived_seed(run_seed, "order", epoch)``.

    It is the start of the SHA-256 of the keys, so different addresses give unrelated seeds, and
    the same address gives the same seed in every process, in any order of asking. Nothing has to
    be stored to resume at a given step.
    """
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device | str, *keys: int | str) -> torch.Generator:
    """A fresh generator on `device`, seeded by `derived_seed(*keys)`."""
    return torch.Generator(device).manual_seed(derived_seed(*keys))
