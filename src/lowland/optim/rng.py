"""Random numbers: the same in both passes, and as functions of the step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MASK = (1 << 64) - 1


def counter_based(device: torch.device, *counters: int) -> torch.Generator:
    """A generator whose numbers are a function of the counters (seed, step, ...) alone.

    They differ between kinds of device.
    """
    mixed = 0x9E3779B97F4A7C15
    for counter in counters:  # splitmix64
        mixed = (mixed ^ (counter & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & MASK
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed >> 1)


class RandomState:
    """The state of torch's global generators at one moment, of the host and of other devices."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._states = {device: _get(device) for device in devices}

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """That of the host and of `device`."""
        return cls({torch.device("cpu"), device})

    def again(self) -> RandomState:
        """The present state of the same devices."""
        return RandomState(self._states)

    def restore(self) -> None:
        """Go back to it."""
        for device, state in self._states.items():
            _set(device, state)


class GlobalRandomState:
    """Torch's global generators: recorded before the first pass, replayed before the second."""

    def __init__(self) -> None:
        self._before: RandomState | None = None
        self._after: RandomState | None = None

    def record(self, device: torch.device) -> None:
        """Remember the state before a pass at w."""
        self._before = RandomState.now(device)

    def replay(self) -> None:
        """Go back to it, for a pass at w+ε."""
        if self._before is not None:
            self._after = self._before.again()
            self._before.restore()

    def resume(self) -> None:
        """After that pass, go on from where the first one ended. Idempotent."""
        if self._after is not None:
            self._after.restore()
            self._after = None


def _get(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)  # type: ignore[no-any-return]


def _set(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
