"""What is read off a trained ViT or Mixer, block by block; see `columns` for the names.

All on the first `examples` images of a split, unaugmented, in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lowland.measure import active_units, capture, feature_rank, weight_ranks
from lowland.models import block_names
from lowland.studies.vit_blocks import columns
from lowland.studies.vit_blocks.columns import (
    BRANCHES,
    CENTERS,
    GELU_SHARES,
    MATRICES,
    OTHER_TOKENS,
    SPARSE,
    STREAMS,
    TOKENS,
)
from lowland.train.evaluate import Inputs, first

if TYPE_CHECKING:
    from lowland.data import Split
    from lowland.train import Row
    from lowland.train.reading import Trained

SHARE = 0.99
"""Of the variance, that the rank explains."""


def read(trained: Trained, *, kind: str, examples: int) -> Row:
    """Ranks, active units, sparsity and ranks of weights of all blocks.

    Args:
        trained: the trained network.
        kind: "vit" or "mixer".
        examples: how many images of each split.
    """
    train = _inputs(trained, trained.data.train, examples)
    test = _inputs(trained, trained.data.test, examples)
    network, fresh = trained.module, trained.untrained()
    return {
        **_ranks(network, train, kind, "end"),
        **_other_token(network, train, kind),
        **_streams(network, test, kind, "test"),
        **_ranks(fresh, train, kind, "start", centers=("unit",)),
        **_rows(network, train),
        **_weights(network, kind, "end"),
        **_weights(fresh, kind, "start"),
    }


def _inputs(trained: Trained, split: Split, examples: int) -> Inputs:
    dtype = next(trained.module.parameters()).dtype
    return Inputs(trained.data, first(split, examples), dtype)


def _captured(
    module: nn.Module, inputs: Inputs, places: tuple[str, ...], token: str
) -> Iterator[tuple[str, str, Tensor]]:
    """Block, place and features (n, d)."""
    found = capture(module, inputs, "block*", where=places, tokens=token, device="model")
    for name, features in found.items():
        block, _, place = name.partition(":")
        yield block, place, features


def _ranks(
    module: nn.Module,
    inputs: Inputs,
    kind: str,
    of: str,
    centers: tuple[str, ...] = tuple(CENTERS),
) -> Row:
    """Ranks everywhere in a block, sparsity of the stream, and a class token's active GELUs."""
    row: Row = {}
    token = TOKENS[kind]
    for block, place, features in _captured(module, inputs, (*STREAMS, *BRANCHES), token):
        for center in centers:
            measured = feature_rank(features, SHARE, center)
            row[columns.rank(block, place, token, center=center, of=of)] = measured.value
        if of == "end" and place in STREAMS:
            row[columns.mean_energy(block, place, token)] = measured.mean_energy
        if place in STREAMS:
            for against, share in sparse_coordinates(features).items():
                row[columns.sparse(block, place, of=of, against=against)] = share
        if place == "after-activation" and token == "class":
            for share in GELU_SHARES:
                units = active_units(features, rule="gelu", share=share)
                row[columns.active(block, token, share, of=of)] = units.fraction
    return row


def _other_token(module: nn.Module, inputs: Inputs, kind: str) -> Row:
    """The same ranks of the token that is shown beside."""
    token = OTHER_TOKENS[kind]
    row: Row = {}
    for block, place, features in _captured(module, inputs, (*STREAMS, *BRANCHES), token):
        for center in CENTERS:
            measured = feature_rank(features, SHARE, center)
            row[columns.rank(block, place, token, center=center)] = measured.value
    return row


def _streams(module: nn.Module, inputs: Inputs, kind: str, of: str) -> Row:
    """Ranks of the residual stream alone."""
    token = TOKENS[kind]
    return {
        columns.rank(block, place, token, of=of): feature_rank(features, SHARE).value
        for block, place, features in _captured(module, inputs, STREAMS, token)
    }


def _rows(module: nn.Module, inputs: Inputs) -> Row:
    """Active GELUs over all tokens of all examples, one block in memory at a time."""
    row: Row = {}
    for block in (name for name in block_names(module) if name.startswith("block")):
        found = capture(
            module, inputs, block, where="after-activation", tokens="rows", device="model"
        )
        for share in GELU_SHARES:
            units = active_units(found[block], rule="gelu", share=share)
            row[columns.active(block, "rows", share)] = units.fraction
    return row


def sparse_coordinates(features: Tensor) -> Mapping[str, float]:
    """Shares of coordinates that stay near zero on all examples, by two scales.

    With m_j the largest |value| of coordinate j over the examples: the share of j with
    m_j < `SPARSE` · max m ("largest"), and with m_j < `SPARSE` · median m ("median"), which one
    coordinate of huge values, as transformers have them, does not change.

    >>> sparse_coordinates(Tensor([[100.0, 1.0, -1.0, 0.01], [0.0, -1.0, 0.5, 0.0]]))
    {'largest': 0.75, 'median': 0.25}
    """
    reach = features.double().abs().amax(0)
    scales = {"largest": reach.max(), "median": reach.median()}
    return {name: float((reach < SPARSE * scale).double().mean()) for name, scale in scales.items()}


def _weights(module: nn.Module, kind: str, of: str) -> Row:
    row: Row = {}
    for block in (name for name in block_names(module) if name.startswith("block")):
        for part in MATRICES[kind]:
            found = weight_ranks(module, parameters=f"{block}.{part}", variance=SHARE)
            row[columns.weights(block, part, "threshold", of=of)] = found.value
            row[columns.weights(block, part, "stable", of=of)] = found.stable
    return row
