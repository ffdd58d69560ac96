"""Several instruments at once: each as if it had been called alone."""

from __future__ import annotations

import json

import pytest
import torch
from measure_cases import batches, per_example, small_net
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure import (
    INSTRUMENTS,
    RANK_PRESETS,
    active_units,
    capture,
    feature_rank,
    inspect_model,
    one_step_sharpness,
    weight_norm,
)
from lowland.measure.features import shared
from lowland.measure.instruments import LOOKS_AT


def same(left: Measurement, right: Measurement) -> bool:
    return repr({**left.to_dict(), "seconds": 0}) == repr({**right.to_dict(), "seconds": 0})


def test_every_record_is_that_of_the_instrument_alone() -> None:
    model, data = small_net(), batches()
    found = inspect_model(
        model,
        data,
        ["rank", "active", "weight-norm", "sharpness"],
        loss_fn=per_example,
        options={"rank": {"variance": [0.9, 0.5]}, "sharpness": {"rho": 0.1}},
    )
    features = capture(model, data, "block*")
    assert list(found.blocks) == ["block1", "block2"]
    for name, row in found.blocks.items():
        assert list(row) == ["rank", "active", "weight-norm", "sharpness"]
        assert same(row["rank"], feature_rank(features[name], [0.9, 0.5]))
        assert same(row["active"], active_units(features[name]))
        assert same(row["weight-norm"], weight_norm(model, parameters=name))
        alone = one_step_sharpness(model, per_example, data, rho=0.1, parameters=name)
        assert same(row["sharpness"], alone)
    assert same(found.model["weight-norm"], weight_norm(model))
    assert list(found.model) == ["weight-norm", "sharpness"]
    json.dumps(found.to_dict(), allow_nan=False)


RANKS = ("rank", "effective-rank", "rankme", "stable-rank", "participation-ratio", "numerical-rank")


@pytest.mark.parametrize("center", [None, "unit", "example", "none"])
def test_ranks_from_one_spectrum_are_those_of_the_functions(center, monkeypatch) -> None:
    model, data = small_net(), batches()
    given = {} if center is None else {"center": center}
    options = {name: dict(given) for name in RANKS}
    options["rank"]["variance"] = [0.5, 0.9]
    options["rankme"]["epsilon"] = 1e-3
    features = capture(model, data, "block1")["block1"]
    alone = {n: INSTRUMENTS[n].measure(features, **options[n]) for n in RANKS}
    taken = []
    count = shared.feature_spectrum
    monkeypatch.setattr(shared, "feature_spectrum", lambda *a: (taken.append(a), count(*a))[1])
    found = inspect_model(model, data, RANKS, blocks="block1", options=options).blocks["block1"]
    assert all(same(found[name], alone[name]) for name in RANKS)
    assert len(taken) == (2 if center is None else 1)


def test_the_published_rank_has_a_spectrum_of_its_own() -> None:
    model, data = small_net(), batches()
    preset = dict(RANK_PRESETS["low-rank-paper"])
    found = inspect_model(model, data, ["stable-rank", "rank"], options={"rank": preset})
    features = capture(model, data, "block*")
    for block, row in found.blocks.items():
        assert same(row["rank"], feature_rank(features[block], **preset))


def test_a_block_without_parameters_has_features_alone() -> None:
    found = inspect_model(small_net(), batches(), ["rank", "weight-norm"], blocks="relu,head")
    assert list(found.blocks["relu"]) == ["rank"]
    assert list(found.blocks["head"]) == ["rank", "weight-norm"]


def test_a_block_without_matrices_has_no_rank_of_matrices() -> None:
    what = ["weight-rank", "weight-norm"]
    found = inspect_model(small_net(), batches(), what, blocks="block1.1,head")
    assert list(found.blocks["block1.1"]) == ["weight-norm"]
    assert list(found.blocks["head"]) == what


def test_features_of_all_blocks_take_one_pass() -> None:
    model, calls = small_net(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    inspect_model(model, batches(), ["rank", "active"])
    assert len(calls) == len(batches())


def test_weights_alone_read_no_data() -> None:
    model = small_net()
    model.register_forward_hook(lambda *_: pytest.fail("ran"))
    assert inspect_model(model, batches(), ["weight-norm"]).model["weight-norm"].value > 0


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        (["rnak"], {}, "unknown instrument 'rnak': did you mean 'rank'"),
        (["rank"], {"rnak": {}}, "did you mean 'rank'"),
        (["rank"], {"rank": {"centre": "none"}}, "option of rank 'centre': did you mean 'center'"),
        (["sharpness"], {}, "sharpness looks at the loss: give loss_fn"),
    ],
)
def test_what_cannot_be_asked(what, options, said) -> None:
    with pytest.raises(InputError, match=said):
        inspect_model(small_net(), batches(), what, options=options)


def test_shuffled_data_are_refused() -> None:
    loader = torch.utils.data.DataLoader(torch.randn(8, 1, 4, 4), batch_size=4, shuffle=True)
    with pytest.raises(InputError, match="shuffle=False"):
        inspect_model(small_net(), loader)


def test_the_table_says_what_each_is() -> None:
    for name, instrument in INSTRUMENTS.items():
        assert name == instrument.name == name.lower()
        assert instrument.words
        assert instrument.looks_at in LOOKS_AT
        assert callable(instrument.measure)


def test_the_model_is_called_by_name_of_its_blocks_after_compiling() -> None:
    model = nn.Sequential()
    model.add_module("block1", nn.Linear(4, 3))
    model.add_module("block2", nn.Linear(3, 2))
    data = [torch.randn(6, 4)]
    plain = inspect_model(model, data, ["rank", "weight-norm"])
    compiled = inspect_model(torch.compile(model, backend="eager"), data, ["rank", "weight-norm"])
    for block, row in plain.blocks.items():
        assert all(same(row[name], compiled.blocks[block][name]) for name in row)
