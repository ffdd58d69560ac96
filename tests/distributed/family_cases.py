"""What every process does with every method on sharded parameters."""

from __future__ import annotations

from typing import Any

from forms import form_batch, make
from shard_cases import STEPS, sharded, share, whole

from lowland.core.errors import InputError
from lowland.optim import METHODS


def family(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Every method on sharded parameters: the weights, or the line that refuses."""
    out: dict[str, Any] = {}
    for name in METHODS:
        model = sharded()
        try:
            opt = make(name, model)
            for i in range(STEPS):
                form_batch(opt, model, *share(i, rank, world))
        except InputError as error:
            out[name] = str(error)
            continue
        out[name] = whole(model)
    return out
