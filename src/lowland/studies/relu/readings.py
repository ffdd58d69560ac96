"""What is read off a trained post-activation ResNet, block by block; `columns` has the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowland.core.seeds import generator
from lowland.measure import active_units, capture, feature_rank, stream
from lowland.models import block_names
from lowland.studies.effects import mean
from lowland.studies.relu import columns
from lowland.train import read_history
from lowland.train.directory import MEASURED
from lowland.train.evaluate import Inputs, first

if TYPE_CHECKING:
    from lowland.train import Row
    from lowland.train.reading import Trained

INSTRUMENT = "active"


def read(trained: Trained, *, draws: int) -> Row:
    """Active units at the end, at initialisation and over training; ranks of random subsets.

    Active units at both ends are counted on all training images, as the paper counts them, without
    holding their features; those over training on the examples of the recipe.

    Args:
        trained: the trained network.
        draws: random subsets per share of units; their mean rank counts.
    """
    everything = Inputs(trained.data, trained.data.train, _dtype(trained.module))
    blocks = superblocks(trained.module)
    row: Row = {}
    units: dict[str, int] = {}
    fresh = trained.untrained()
    for block in blocks:
        rows = stream(trained.module, everything, block)
        counted = active_units(rows, examples=columns.EXAMPLES)
        units[block] = counted.dimension
        for share, number in counted.by_examples.items():
            row[columns.active(block, share)] = number / counted.dimension
        row[columns.values(block)] = counted.mean_fraction
        channels = _channels(trained, block)
        row[columns.channels(block)] = active_units(rows, channels=channels).fraction
        before = active_units(stream(fresh, everything, block))
        row[columns.active(block, of="start")] = before.fraction
    row |= _curves(trained, units)
    if trained.recipe.rho == 0:
        row |= _kept(trained, blocks[len(blocks) // 2 :], draws)
    return row


def superblocks(module: nn.Module) -> list[str]:
    """Names of the superblocks, in order."""
    return [name for name in block_names(module) if name.startswith("block")]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _channels(trained: Trained, block: str) -> int:
    """Channels of a block's output."""
    one = Inputs(trained.data, first(trained.data.train, 1), _dtype(trained.module))
    return capture(trained.module, one, block, spatial="mean")[block].shape[1]


def _curves(trained: Trained, units: dict[str, int]) -> Row:
    """The recipe's own measurements, which were made at the steps of its evaluations."""
    path = trained.folder / MEASURED
    if not path.exists():
        return {}
    row: Row = {}
    for evaluation, measured in enumerate(read_history(path)):
        for block, number in units.items():
            active = measured.get(f"{INSTRUMENT}/{block}")
            row[columns.curve(block, evaluation)] = None if active is None else active / number
    return row


def _kept(trained: Trained, blocks: list[str], draws: int) -> Row:
    """Ranks of the features of random subsets of units."""
    split = first(trained.data.train, trained.recipe.rank_examples)
    inputs = Inputs(trained.data, split, _dtype(trained.module))
    row: Row = {}
    for block in blocks:
        features = capture(trained.module, inputs, block, device="model")[block]
        for share in columns.KEPT:
            subsets = (subset(features, share, trained.recipe.seed, i) for i in range(draws))
            ranks = [float(feature_rank(some).value) for some in subsets]
            row[columns.kept(block, share)] = mean(ranks)
    return row


def subset(features: Tensor, share: float, seed: int, draw: int) -> Tensor:
    """The columns of features (n, d) of round(share · d) units drawn without replacement."""
    d = features.shape[1]
    order = torch.randperm(d, generator=generator("cpu", seed, "kept units", draw))
    chosen = order[: max(1, round(share * d))].sort().values
    return features[:, chosen.to(features.device)]
