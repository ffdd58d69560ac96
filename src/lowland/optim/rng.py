"""The same random numbers in both passes, so that dropout masks agree."""

from __future__ import annotations

import torch
from torch import Tensor


class GlobalRandomState:
    """Torch's global generators: recorded before the first pass, replayed before the second."""

    def __init__(self) -> None:
        self._before: dict[torch.device, Tensor] | None = None
        self._after: dict[torch.device, Tensor] | None = None

    def record(self, device: torch.device) -> None:
        """Remember the state before a pass at w."""
        self._before = {d: _get(d) for d in {torch.device("cpu"), device}}

    def replay(self) -> None:
        """Go back to it, for a pass at w+ε."""
        if self._before is not None:
            self._after = {device: _get(device) for device in self._before}
            for device, state in self._before.items():
                _set(device, state)

    def resume(self) -> None:
        """After that pass, go on from where the first one ended. Idempotent."""
        if self._after is not None:
            for device, state in self._after.items():
                _set(device, state)
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
