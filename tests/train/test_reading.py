"""Readings: numbers read off a trained network, which is trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowland.core.errors import InputError
from lowland.train import Reading, Recipe, check_any, read_history, read_record, run, run_any

RECIPE = Recipe(
    model="mlp", width=4, limit=40, batch_size=20, epochs=2, evaluations=2, rho=0.1, seed=3
)


def reading(name: str = "distances", **settings: float) -> Reading:
    return Reading(recipe=RECIPE, function=f"made_readings:{name}", settings=settings)


def test_the_columns_join_the_last_row_of_the_recipes_history(tmp_path: Path) -> None:
    folder = run_any(reading(), tmp_path)
    rows = read_history(folder / "history.parquet")
    trained = run(RECIPE, tmp_path)
    before = read_history(trained / "history.parquet")
    assert len(rows) == len(before) == 3
    assert {name: rows[-1][name] for name in before[-1]} == before[-1]
    assert "moved" not in rows[0]
    assert rows[-1]["norm"] == pytest.approx(before[-1]["weight-norm"])
    assert rows[-1]["moved"] > 0
    assert (rows[-1]["training"], rows[-1]["images"]) == (0, 40)
    record = read_record(folder)
    assert record["trained"] == trained.name
    assert set(record["seconds"]) >= {"train", "read"}


def test_readings_of_one_recipe_train_once_and_stay(tmp_path: Path) -> None:
    first = run_any(reading(), tmp_path)
    second = run_any(reading(scale=2.0), tmp_path)
    trained = run(RECIPE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, trained.name}
    moved = [read_history(f / "history.parquet")[-1]["moved"] for f in (first, second)]
    assert moved[1] == 2 * moved[0]
    before = (first / "history.parquet").stat().st_mtime_ns
    assert run_any(reading(), tmp_path) == first
    assert (first / "history.parquet").stat().st_mtime_ns == before


def test_equal_readings_are_one_and_types_of_settings_tell_them_apart() -> None:
    assert reading(scale=1.0) == reading(scale=1.0)
    assert reading(scale=1.0) != reading(scale=1)
    assert len({reading(), reading(scale=1.0), reading("words")}) == 3
    one = reading()
    assert (one.method, one.rho, one.seed) == ("sam", 0.1, 3)
    assert one.to_dict()["reading"]["function"] == "made_readings:distances"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (reading("nowhere"), "has no function nowhere"),
        (reading(scales=1.0), "settings do not fit"),
    ],
)
def test_what_cannot_be_called_is_refused_before_the_training(
    what: Reading, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        check_any(what)
    with pytest.raises(InputError, match=words):
        run_any(what, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_result_leaves_the_training_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train/loss, which the training has"):
        run_any(reading("clash"), tmp_path)
    with pytest.raises(TypeError, match="gave a str as a"):
        run_any(reading("words"), tmp_path)
    assert read_record(run(RECIPE, tmp_path))["status"] == "finished"


def test_nothing_is_read_off_a_network_that_diverged(tmp_path: Path) -> None:
    wild = Recipe(model="mlp", width=4, limit=40, batch_size=20, epochs=3, lr=1e30, method="none")
    folder = run_any(Reading(recipe=wild, function="made_readings:distances"), tmp_path)
    assert read_record(folder)["diverged"]
    assert "moved" not in read_history(folder / "history.parquet")[-1]
