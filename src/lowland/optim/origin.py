"""Plans that leave w for a while: the weights that evaluations start from.

A client of a federated round goes from w to weights of its own, and each of its steps has a
perturbation around those. So there are two moves, one on top of the other: from w to where the
plan stands, and from there to where a gradient is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lowland.optim.displacement import Move

if TYPE_CHECKING:
    from lowland.optim.engine import Engine


AWAY = (
    "a step while the weights are not w (in a sample of the posterior, say), to which they come "
    "back afterwards: leave that block first"
)


def check_home(engine: Engine) -> None:
    """Raise unless the weights are w: where they come back later, a step would be lost.

    Raises:
        RuntimeError: they are not.
    """
    if engine.away:
        raise RuntimeError(AWAY)


def settle(engine: Engine, move: Move) -> None:
    """Stand at w + move, whatever came before; an empty move is back at w."""
    go_home(engine)
    if move:
        engine.away = True
        engine.origin.go(move)
        _forget(engine)


def go_home(engine: Engine) -> None:
    """Back to w, bit for bit. Safe to call at any time and any number of times."""
    if engine.origin.displaced:
        if engine.displacement.displaced:
            engine.come_back()
        engine.origin.come_back()
        _forget(engine)
    engine.away = engine.displacement.displaced  # also if a signal came before w was left


def _forget(engine: Engine) -> None:
    """Let go of copies of the weights as they were."""
    if engine.devices.shards.split:
        engine.devices.gathered.release()
    torch.clear_autocast_cache()
