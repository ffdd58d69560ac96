"""The record: strict, trimmed, and the same after a journey through a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_networks import MEAN_STD, array_data, foreign, inputs, inspected

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.data import open_examples
from lowland.inspection import (
    COMPARISONS,
    RECORD,
    Comparison,
    How,
    check_folder,
    load_subject,
    read_record,
    write_record,
)
from lowland.inspection.inputs import Inputs
from lowland.inspection.record import LONGEST, plain, trimmed

HOW = How(constructor="made_networks:foreign", **MEAN_STD)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two networks of one kind; the second has a block fewer."""
    torch.save(foreign(1).state_dict(), tmp_path / "a.pt")
    torch.save(foreign(2).state_dict(), tmp_path / "b.pt")
    return tmp_path / "a.pt", tmp_path / "b.pt"


def test_long_lists_are_thinned_with_their_sums() -> None:
    values = np.random.default_rng(0).random(5000)
    found = trimmed({"spectrum": values.tolist(), "short": [1.0, 2.0]})
    thin = found["spectrum"]
    assert found["short"] == [1.0, 2.0]
    assert thin["length"] == 5000
    assert len(thin["index"]) <= LONGEST
    assert thin["index"][0] == 0 and thin["index"][-1] == 4999  # noqa: PT018
    np.testing.assert_array_equal(thin["values"], values[thin["index"]])
    np.testing.assert_allclose(thin["cumulative"], values.cumsum()[thin["index"]])


def test_large_tables_are_left_out() -> None:
    assert trimmed([[0.0] * 300] * 300) == {"left out": [300, 300]}
    assert trimmed([[1, 2], [3, 4]]) == [[1, 2], [3, 4]]
    assert trimmed(["a"] * 999) == ["a"] * 999


def test_plain_values() -> None:
    given = {1: (math.nan, -math.inf, np.float64(2.0), Path("x"), {3}), "y": None, "z": True}
    assert plain(given) == {"1": ["nan", "-inf", 2.0, "x", [3]], "y": None, "z": True}
    json.dumps(plain(given), allow_nan=False)


def test_the_record_survives_its_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    record = inspected(pair[0], data=array_data(tmp_path), how=HOW, what="rank,loss")
    path = write_record(tmp_path / "out" / "deep", record)
    assert path.name == RECORD
    assert read_record(path.parent) == json.loads(json.dumps(record))
    assert record["asked"]["what"] == ["rank", "loss"]
    assert record["subjects"][0]["preprocessing"]["std"] == [0.25] * 3
    assert {"torch", "time", "commit", "cpu"} <= set(record["provenance"])
    assert [p.name for p in path.parent.iterdir()] == [RECORD]


def test_foreign_folders_and_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_record(tmp_path)
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(InputError, match="is no record of `lowland inspect`"):
        read_record(tmp_path)
    with pytest.raises(InputError, match="is no record of lowland: choose another --out"):
        check_folder(tmp_path)
    (tmp_path / RECORD).write_text('{"format": "lowland-inspection", "version": 99}')
    with pytest.raises(InputError, match="has format version 99"):
        read_record(tmp_path)
    check_folder(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text("{}")
    with pytest.raises(InputError, match="is the folder of a study or run"):
        check_folder(tmp_path / "study")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: choose another folder"):
        check_folder(tmp_path / "file" / "x")
    check_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()


def test_two_networks_see_the_same_examples(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data = array_data(tmp_path)
    both = inspected(*pair, data=data, how=HOW, what="rank,loss,weight-norm")
    for place, path in enumerate(pair):
        alone = inspected(path, data=data, how=HOW, what="rank,loss,weight-norm")["subjects"][0]
        for block, row in alone["blocks"].items():
            found = both["subjects"][place]["blocks"][block]
            assert {n: r["value"] for n, r in found.items()} == {
                n: r["value"] for n, r in row.items()
            }


def test_comparisons_are_measured_between_features(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook for instruments of two networks: same examples, same blocks, in order."""
    seen: list[tuple[Any, ...]] = []

    def apart(one: torch.Tensor, other: torch.Tensor) -> Measurement:
        seen.append((tuple(one.shape), tuple(other.shape)))
        return Measurement(
            name="apart", value=float((one - other).norm()), definition="norm of the difference",
            n=len(one), dtype="float64", seconds=0.0,
        )  # fmt: skip

    for name in list(COMPARISONS):
        monkeypatch.delitem(COMPARISONS, name)
    assert inspected(*pair, data=array_data(tmp_path), how=HOW)["between"] == {}
    monkeypatch.setitem(COMPARISONS, "apart", Comparison(name="apart", words="w", measure=apart))
    record = inspected(*pair, data=array_data(tmp_path), how=HOW)
    assert list(record["between"]) == [f"stages.{i}" for i in range(3)]
    assert seen == [((21, 256), (21, 256))] * 3
    assert all(row["apart"]["value"] > 0 for row in record["between"].values())
    assert record["comparisons"] == [{"name": "apart", "words": "w"}]
    same = inspected(pair[0], pair[0], data=array_data(tmp_path), how=HOW)
    assert all(row["apart"]["value"] == 0.0 for row in same["between"].values())
    only_loss = inspected(*pair, data=array_data(tmp_path), how=HOW, what="loss")
    assert only_loss["between"] == {}


def test_inputs_are_made_once_and_told(tmp_path: Path) -> None:
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    subject = load_subject(str(tmp_path / "a.pt"), HOW)
    examples = open_examples(array_data(tmp_path))
    told: list[int] = []
    batches = Inputs(subject, examples, 8, tell=told.append)
    one = [x for x, _ in batches]
    two = [x for x, _ in batches]
    assert told == [1, 2, 3] * 2
    assert [len(x) for x in one] == [8, 8, 5]
    assert all(x is y for x, y in zip(one, two, strict=True)), "kept"
    torch.testing.assert_close(torch.cat(one).double(), inputs(), atol=1e-6, rtol=0)
    labels = torch.cat([y for _, y in batches])
    assert torch.equal(labels, torch.arange(21) % 3)


def test_inputs_that_are_too_many_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    subject = load_subject(str(tmp_path / "a.pt"), HOW)
    monkeypatch.setattr("lowland.inspection.inputs.KEPT", 8 * 3 * 8 * 8 * 4)
    batches = Inputs(subject, open_examples(array_data(tmp_path)), 8)
    one, two = [x for x, _ in batches], [x for x, _ in batches]
    assert [x is y for x, y in zip(one, two, strict=True)] == [True, False, False]
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_the_order_of_classes(tmp_path: Path) -> None:
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    data = array_data(tmp_path, y=np.repeat(np.arange(3), 7))
    first = inspected(tmp_path / "a.pt", data=data, how=HOW, examples=6)
    assert first["notes"] == [
        "The 6 examples are of 1 of 3 classes; --order classes takes them in turn."
    ]
    turns = inspected(tmp_path / "a.pt", data=data, how=HOW, examples=6, order="classes")
    assert turns["notes"] == []
    assert turns["data"]["order"] == "classes in turn"


def test_what_differs_from_a_preset_is_noted(tmp_path: Path) -> None:
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    options = {"data": array_data(tmp_path), "how": HOW, "preset": "low-rank-paper"}
    (only,) = inspected(tmp_path / "a.pt", **options)["notes"]
    assert only.startswith("low-rank-paper is for 10,240 examples of split train; these are 21")
    settings = ["rank.variance=0.9", "active.share=0.05"]
    record = inspected(tmp_path / "a.pt", **options, order="classes", settings=settings)
    assert record["notes"][1:] == [
        "low-rank-paper takes the examples as they are stored; here classes alternate.",
        "low-rank-paper has another rank.variance: these numbers are not its.",
    ]


def test_a_rise_of_the_error_is_no_error(tmp_path: Path) -> None:
    """`error` of a sharpness is how much it rises: that says nothing of preprocessing."""
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    right = foreign()(inputs().float()).argmax(1).numpy()
    record = inspected(
        tmp_path / "a.pt", data=array_data(tmp_path, y=right), how=HOW,
        what="worst-sharpness,loss", settings=["worst-sharpness.rho=1000"],
    )  # fmt: skip
    subject = record["subjects"][0]
    assert subject["model"]["loss"]["error"] == 0
    assert subject["model"]["worst-sharpness"]["error"] > 0.6, "as that of guessing"
    assert not any("guessing" in note for note in subject["notes"])


def test_an_error_like_that_of_guessing_is_noted(tmp_path: Path) -> None:
    torch.save(foreign().state_dict(), tmp_path / "a.pt")
    wrong = foreign()(inputs().float()).argmin(1).numpy()
    data = array_data(tmp_path, y=wrong)
    record = inspected(tmp_path / "a.pt", data=data, how=HOW, what="loss")
    assert record["subjects"][0]["model"]["loss"]["error"] > 0.6
    assert "is that of guessing: check --mean, --std" in " ".join(record["subjects"][0]["notes"])
