"""Data sets of Hugging Face ``datasets``: labels of every kind, splits, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_images import image, levels, png

from lowland.core.errors import InputError
from lowland.data import load


@pytest.fixture
def hub() -> Any:
    return pytest.importorskip("datasets")


def table(hub: Any, start: int, n: int, label: str = "label") -> Any:
    features = hub.Features({"img": hub.Image(), label: hub.ClassLabel(names=["x", "y"])})
    rows = {
        "img": [{"bytes": png(image(start + i)), "path": None} for i in range(n)],
        label: [i % 2 for i in range(n)],
    }
    return hub.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("label", ["label", "fine_label", "kind"])
def test_a_folder_of_hugging_faces_library(hub: Any, tmp_path: Path, label: str) -> None:
    whole = hub.DatasetDict(
        {"train": table(hub, 0, 40, label), "valid": table(hub, 100, 8, label)}
        | {"extra": table(hub, 0, 4, label)}
    )
    whole.save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path / 'saved'}")
    assert levels(data, "test") == list(range(100, 108))
    assert data.source["sizes"] == {"train": 36, "validation": 4, "test": 8}
    assert torch.equal(data.train.labels, data.train.index % 2)
    assert load(f"hf:{tmp_path / 'saved'}", held_out=0.1).source["sizes"]["train"] == 36


def test_one_split_saved_alone(hub: Any, tmp_path: Path) -> None:
    table(hub, 0, 40).save_to_disk(str(tmp_path / "one"))
    assert load(f"hf:{tmp_path / 'one'}").source["sizes"] == {
        "train": 29,
        "validation": 3,
        "test": 8,
    }


def of_kind(hub: Any, labels: list[Any], kind: Any = None) -> Any:
    """A table with one grey image for each label, and a column of labels of some type."""
    features = {"image": hub.Image(), "label": kind or hub.Value("int64")}
    rows = {
        "image": [{"bytes": png(image(i)), "path": None} for i in range(len(labels))],
        "label": labels,
    }
    return hub.Dataset.from_dict(rows, features=hub.Features(features))


def saved(hub: Any, place: Path, **splits: Any) -> str:
    hub.DatasetDict(splits).save_to_disk(str(place))
    return f"hf:{place}"


def test_words_are_numbered_over_all_splits(hub: Any, tmp_path: Path) -> None:
    words = hub.Value("string")
    train = of_kind(hub, ["dog", "ant", "cat"] * 10, words)
    test = of_kind(hub, ["dog", "cat"], words)
    data = load(saved(hub, tmp_path / "words", train=train, test=test))
    assert data.test.labels.tolist() == [2, 1]
    assert torch.equal(data.train.labels, torch.tensor([2, 0, 1])[data.train.index % 3])


@pytest.mark.parametrize("nothing", [-1, None])
def test_a_test_split_without_labels_is_left_out(hub: Any, tmp_path: Path, nothing: Any) -> None:
    """As the hub's ImageNet has one."""
    train, test = of_kind(hub, [0, 1] * 20), of_kind(hub, [nothing] * 6)
    data = load(saved(hub, tmp_path / "s", train=train, validation=train, test=test))
    assert data.source["sizes"] == {"train": 36, "validation": 4, "test": 40}
    assert "test has no labels and is left out" in data.source["rule"]


def test_a_split_that_says_it_wholly_comes_first(hub: Any, tmp_path: Path) -> None:
    splits = {"train_extra": of_kind(hub, [0, 1] * 2), "train": of_kind(hub, [0, 1] * 20)}
    assert sum(load(saved(hub, tmp_path / "s", **splits)).source["sizes"].values()) == 40


def test_labels_of_the_hub_that_are_no_classes(hub: Any, tmp_path: Path) -> None:
    names = [hub.ClassLabel(names=pair) for pair in (["a", "b"], ["b", "a"])]
    plain, half = of_kind(hub, [0, 1] * 20), of_kind(hub, [0, None] * 20)
    cases = {
        "has labels of type float32: use classes, whole numbers or words": {
            "train": of_kind(hub, [0.0, 0.7] * 20, hub.Value("float32"))
        },
        "has labels of type": {"train": of_kind(hub, [[0]] * 20, [hub.Value("int64")])},
        "row 1 of train has no label: fill it": {"train": half},
        "row 1 of test has no label: fill it": {"train": plain, "test": half},
        "train has labels of classes a, b, test of classes b, a: cast both": {
            "train": of_kind(hub, [0, 1] * 20, names[0]),
            "test": of_kind(hub, [0, 1] * 4, names[1]),
        },
    }
    for i, (message, splits) in enumerate(cases.items()):
        with pytest.raises(InputError) as caught:
            load(saved(hub, tmp_path / str(i), **splits))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_image_that_the_hub_names_and_has_not(hub: Any, tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    table = hub.Dataset.from_dict({"image": [str(missing)] * 40, "label": [0, 1] * 20})
    with pytest.raises(InputError, match=r"none\.png: no such file.*the data set names it"):
        load(saved(hub, tmp_path / "s", train=table))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs datasets: pip install 'lowland\[hub\]'"):
        load("hf:cifar10")


def test_what_the_library_says_is_one_line(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ConnectionError("no route to the hub.\nmore")

    monkeypatch.setattr(hub, "load_dataset", fail)
    with pytest.raises(InputError, match=r"'hf:cifar10' cannot be had: no route to the hub$"):
        load("hf:cifar10")
    hub.DatasetDict({"all": table(hub, 0, 4)}).save_to_disk(str(tmp_path / "all"))
    with pytest.raises(InputError, match=r"has no split train \(it has all\)"):
        load(f"hf:{tmp_path / 'all'}")
    hub.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(InputError, match=r"has no column of images \(it has text\)"):
        load(f"hf:{tmp_path / 'texts'}")
    with pytest.raises(InputError, match="lacks its name"):
        load("hf:")
