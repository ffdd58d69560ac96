"""Measuring every so many updates: the run stays the same, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lowland.core.errors import InputError
from lowland.measure import INSTRUMENTS, Instrument, mean_energy, weight_norm
from lowland.train import Recipe, read_history, read_record, read_weights, run
from lowland.train.directory import HISTORY, MEASURED
from lowland.train.trainer import build_model

Make = Callable[..., Recipe]
CHEAP = ("rank", "active", "weight-norm", "loss", "sharpness")
NET = {"model": "preact-resnet-small", "width": 2, "rank_block": "block3"}


def rows_of(folder: Path, file: str) -> list[dict[str, Any]]:
    return [
        {name: repr(value) for name, value in row.items() if not name.startswith("seconds/")}
        for row in read_history(folder / file)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {**NET},
        {**NET, "method": "none", "rho": 0.0},
        {**NET, "method": "looksam", "method_options": {"k": 2}},
        {**NET, "method": "rw-sam"},
        {"method": "sl-sam"},
        {**NET, "base": "adamw", "momentum": 0.0, "precision": "bf16-mixed"},
        {"precision": "64-true"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values() if isinstance(v, str)),
)
def test_measuring_does_not_change_the_run_by_one_bit(
    changes: Any, tiny: Make, tmp_path: Path
) -> None:
    without = run(tiny(**changes), tmp_path)
    measured = run(tiny(**changes, measures=CHEAP, measure_every=1), tmp_path)
    assert without != measured
    ours, theirs = read_weights(without), read_weights(measured)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert rows_of(without, HISTORY) == rows_of(measured, HISTORY)
    assert len(read_history(measured / MEASURED)) == 7
    assert not (without / MEASURED).exists()


@pytest.mark.slow
def test_no_instrument_changes_the_run(tiny: Make, tmp_path: Path) -> None:
    changes = {**NET, "rank_examples": 30, "evaluations": 1}
    options = {
        "probe.held_out": 0.4,
        "average-sharpness.draws": 2,
        "worst-sharpness.steps": 2,
        "eigenvalue.max_products": 8,
        "trace.max_products": 30,
        "hessian-moments.max_products": 4,
    }
    asked = {"measures": tuple(INSTRUMENTS), "measure_every": 3, "measure_options": options}
    without, measured = run(tiny(**changes), tmp_path), run(tiny(**changes, **asked), tmp_path)
    ours, theirs = read_weights(without), read_weights(measured)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows_of(without, HISTORY) == rows_of(measured, HISTORY)
    columns = {name.split("/")[0] for row in read_history(measured / MEASURED) for name in row}
    assert columns >= set(INSTRUMENTS)


def test_a_row_every_so_many_updates_and_at_the_end(tiny: Make, tmp_path: Path) -> None:
    options = {"rank.variance": 0.9, "rank.center": "none"}
    recipe = tiny(measures=("rank", "weight-norm"), measure_every=4, measure_options=options)
    folder = run(recipe, tmp_path)
    rows = read_history(folder / MEASURED)
    assert [row["step"] for row in rows] == [0, 4, 6]
    assert [row["epoch"] for row in rows] == [0, 4 / 3, 2]
    assert set(rows[0]) == {
        "step", "epoch", "rank/block1", "rank/block2",
        "weight-norm/block1", "weight-norm/block2", "weight-norm",
    }  # fmt: skip
    module = build_model(recipe, (1, 8, 8), 10)
    module.load_state_dict(read_weights(folder))
    assert rows[-1]["weight-norm"] == weight_norm(module).value
    assert rows[-1]["weight-norm/block2"] == weight_norm(module, parameters="block2").value
    assert "0.9" in read_record(folder)["definitions"]["rank/block1"]
    assert "not centred" in read_record(folder)["definitions"]["rank/block1"]
    assert MEASURED in read_record(folder)["files"]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_run_measures_the_same(after: int, tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(**NET, measures=CHEAP, measure_every=2)
    whole = run(recipe, tmp_path / "whole")
    calls = 0

    def stop(progress: Any) -> None:
        nonlocal calls
        calls += progress.row is not None
        if calls == after:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(recipe, tmp_path / "cut", on_progress=stop)
    cut = run(recipe, tmp_path / "cut")
    assert rows_of(whole, MEASURED) == rows_of(cut, MEASURED)
    assert read_record(cut)["seconds"]["measure"] > 0


@pytest.mark.filterwarnings("ignore:.*not finite.*")
def test_a_network_that_diverged_has_nan(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(lr=1e30, evaluations=1, measures=("rank", "loss"), measure_every=1)
    rows = read_history(run(recipe, tmp_path) / MEASURED)
    assert rows[0]["rank/block1"] > 0
    assert math.isnan(rows[-1]["loss"])
    assert math.isnan(rows[-1]["rank/block1"])


@pytest.mark.parametrize("after", [None, 2])
def test_what_can_no_longer_be_measured_does_not_stop_a_run(
    after: int | None, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units may die in training. A resumed run has the same columns."""

    def touchy(features: Any) -> Any:
        found = mean_energy(features)
        if found.value != start.setdefault(found.n, found.value) and features.shape[1] == 8:
            raise InputError("all units are dead")
        return found

    start: dict[int, float] = {}
    new = Instrument(name="touchy", words="", looks_at="features", measure=touchy)
    monkeypatch.setitem(INSTRUMENTS, "touchy", new)
    blocks = {"measure_blocks": "block1", "measures": ("touchy", "weight-norm")}
    recipe = tiny(**blocks, measure_every=1, width=8, model="mlp", rank_block="block1")
    rows = 0

    def stop(progress: Any) -> None:
        nonlocal rows
        rows += progress.row is not None
        if rows == after:
            raise StoppedError

    if after is not None:
        with pytest.raises(StoppedError):
            run(recipe, tmp_path, on_progress=stop)
    folder = run(recipe, tmp_path)
    measured = read_history(folder / MEASURED)
    assert math.isfinite(measured[0]["touchy/block1"])
    assert all(math.isnan(row["touchy/block1"]) for row in measured[1:])
    assert all(math.isfinite(row["weight-norm"]) for row in measured)
    definition = read_record(folder)["definitions"]["touchy/block1"]
    assert definition.endswith("NaN where it could not be measured, at first: all units are dead")


def test_the_second_of_two_instruments_is_refused_at_the_start_too(
    tiny: Make, tmp_path: Path
) -> None:
    recipe = tiny(measures=("rank", "active"), measure_options={"active.channels": 7})
    with pytest.raises(InputError, match="do not divide"):
        run(recipe, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measures": ("rnak",)}, "did you mean 'rank'"),
        ({"measures": ("rank",), "measure_every": 0}, "measure_every must be 1 or more"),
        ({"measure_options": {"rank.variance": 0.9}}, "begins with none of measures"),
        ({"measures": ("rank",), "measure_options": {"variance": 0.9}}, "begins with none"),
        ({"measures": ("rank",), "measure_options": {"rank.varaince": 0.9}}, "did you mean"),
        ({"measures": ("rank",), "measure_options": {"rank.variance": 2}}, "2 is not a share"),
        ({"measures": ("rank",), "measure_options": {"rank.center": "rows"}}, "unknown center"),
        ({"measures": ("trace",), "measure_options": {"trace.probes": "few"}}, "a whole number"),
    ],
)
def test_what_a_recipe_cannot_ask_for(changes: Any, said: str, tiny: Make) -> None:
    with pytest.raises(InputError, match=said):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measure_blocks": "layer*"}, "unknown block"),
        ({"measures": ("active",), "measure_options": {"active.channels": 7}}, "do not divide"),
        ({"measures": ("rankme",), "measure_options": {"rankme.epsilon": -1}}, "epsilon: -1"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    changes: Any, said: str, tiny: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        run(tiny(**{"measures": ("rank",), **changes}), tmp_path)
    assert [p.name for f in tmp_path.iterdir() for p in f.iterdir()] in ([], [".lock"])


def test_options_take_the_types_of_the_instruments(tiny: Make, tmp_path: Path) -> None:
    """A recipe has plain values alone, an instrument may take others."""
    options = {"hessian-moments.orders": 2, "hessian-moments.dtype": "float64"}
    recipe = tiny(
        evaluations=1, measures=("hessian-moments",), measure_blocks="head",
        measure_options=options, rank_examples=12, measure_every=1000,
    )  # fmt: skip
    rows = read_history(run(recipe, tmp_path) / MEASURED)
    assert all(math.isfinite(row["hessian-moments/head"]) for row in rows)
