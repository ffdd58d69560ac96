"""Folders by class, Tiny ImageNet, CIFAR and Hugging Face's folders, written here as they are."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import png

from lowland.core.errors import InputError
from lowland.data import ImageData, load, open_examples


def image(level: int, size: tuple[int, int] = (4, 5)) -> np.ndarray:
    """An RGB image that says which one it is."""
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[0, 0] = (255, 0, 9)
    return pixels


def levels(data: ImageData, split: str) -> list[int]:
    """What `image` was made with, in the order of the split."""
    return data.splits[split].images[:, 1, 1, 1].tolist()


def put(path: Path, level: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image(level, **options)))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train: 12 images of each of b, a; val and test: 4 of each."""
    for split, n in (("train", 12), ("val", 4), ("test", 4)):
        for c, name in enumerate(("a", "b")):
            for i in range(n):
                put(tmp_path / split / name / f"{i:02}.png", 100 * c + i)
    return tmp_path


def test_folders_by_class_take_turns(folders: Path) -> None:
    data = load(f"imagefolder:{folders}")
    assert levels(data, "train") == [100 * c + i for i in range(12) for c in range(2)]
    assert data.train.labels.tolist() == [0, 1] * 12
    assert levels(data, "validation") == levels(data, "test") == [0, 100, 1, 101, 2, 102, 3, 103]
    assert (data.shape, data.augmentation) == ((3, 4, 5), "shift-flip")
    assert torch.equal(data.train.images[0], torch.from_numpy(image(0)).permute(2, 0, 1))
    assert data.source["order"] == "classes in turn"
    put(folders / "train" / "a" / "99.png", 50)
    assert load(f"imagefolder:{folders}").source["sizes"]["train"] == 25, "read again"


def test_folders_without_splits_are_split(tmp_path: Path) -> None:
    for c in range(3):
        for i in range(20):
            put(tmp_path / f"class {c}" / f"{i:02}.png", 60 * c + i)
    data = load(f"imagefolder:{tmp_path}")
    assert data.source["sizes"] == {"train": 43, "validation": 5, "test": 12}
    there = {level for split in data.splits for level in levels(data, split)}
    assert there == {60 * c + i for c in range(3) for i in range(20)}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet's layout: two classes, 10 train images each, 6 validation, 3 unlabelled."""
    names = ("n02", "n01")
    (tmp_path / "wnids.txt").write_text("\n".join(names))
    for c, name in enumerate(sorted(names)):
        for i in range(10):
            put(tmp_path / "train" / name / "images" / f"{name}_{i}.JPEG", 100 * c + i)
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t4\t4\n")
    lines = []
    for i in range(6):
        put(tmp_path / "val" / "images" / f"val_{i}.JPEG", 200 + i)
        lines.append(f"val_{i}.JPEG\t{names[i % 2]}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    for i in range(3):
        put(tmp_path / "test" / "images" / f"test_{i}.JPEG", 0)
    return tmp_path


def test_tiny_imagenet_as_it_comes(tiny: Path) -> None:
    data = load(f"imagefolder:{tiny}")
    assert data.source["sizes"] == {"train": 18, "validation": 2, "test": 6}
    assert "its validation rows are test" in data.source["rule"]
    by_level = dict(zip(levels(data, "test"), data.test.labels.tolist(), strict=True))
    assert by_level == {200 + i: 1 - i % 2 for i in range(6)}, "n02 is class 1"
    published = load(f"imagefolder:{tiny}", held_out=0.05)
    assert published.source["sizes"] == {"train": 19, "validation": 1, "test": 6}
    assert published.train.index.tolist() == sorted(published.train.index.tolist())


def test_inspection_reads_tiny_imagenet_as_training_does(tiny: Path) -> None:
    data = load(f"imagefolder:{tiny}")
    train, held = (open_examples(f"imagefolder:{tiny}", split=s) for s in ("train", "validation"))
    assert (train.n, train.classes, held.n, held.classes) == (20, 2, 6, 2)
    assert held.labels is not None
    assert held.labels.tolist() == data.test.labels.tolist()
    assert [int(held.read(i)[1, 1, 1]) for i in range(6)] == levels(data, "test")
    bare = open_examples(f"imagefolder:{tiny}", split="test")
    assert (bare.n, bare.labels, bare.classes) == (3, None, None)


def test_inspection_numbers_classes_as_train_does(folders: Path) -> None:
    """A split that lacks a class, or has another one, must not number the rest anew."""
    shutil.rmtree(folders / "test" / "a")
    found = open_examples(f"imagefolder:{folders}", split="test")
    assert found.labels is not None
    assert (found.labels.tolist(), found.classes) == ([1] * 4, 2)
    put(folders / "test" / "c" / "0.png", 0)
    with pytest.raises(InputError, match="test/c: the train images have no such class"):
        open_examples(f"imagefolder:{folders}", split="test")


def test_hidden_files_are_no_images(folders: Path) -> None:
    before = load(f"imagefolder:{folders}").fingerprint
    (folders / "train" / "a" / "._00.png").write_bytes(b"Mac OS X")
    (folders / "train" / "__MACOSX").mkdir()
    assert load(f"imagefolder:{folders}").fingerprint == before
    assert open_examples(f"imagefolder:{folders}").classes == 2


def test_folders_that_do_not_fit_into_memory(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowland.data.memory.free_memory", lambda: 2 * 40 * 3 * 20 - 1)
    with pytest.raises(
        InputError, match=r"40 images of 4x5 pixels take 0\.0 GiB to read.*or small"
    ):
        load(f"imagefolder:{folders}")


def spoil(root: Path, what: str) -> None:
    if what == "size":
        put(root / "train" / "a" / "00.png", 0, size=(4, 4))
    elif what == "damaged":
        (root / "train" / "b" / "03.png").write_bytes(b"junk")
    elif what == "class":
        put(root / "val" / "c" / "0.png", 0)
    elif what == "loose":
        put(root / "test" / "0.png", 0)
    elif what == "train":
        (root / "train").rename(root / "training")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("size", "is 5x4 pixels, the first is 4x4: resize all images"),
        ("damaged", "b/03.png cannot be decoded"),
        ("class", "val/c: the train images have no such class"),
        ("loose", "test has images beside folders, first 0.png"),
        ("train", "has no folder 'train' beside test, val"),
    ],
)
def test_folders_that_do_not_fit(folders: Path, what: str, message: str) -> None:
    spoil(folders, what)
    with pytest.raises(InputError) as caught:
        load(f"imagefolder:{folders}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("val_0.JPEG\tn03\t0\n", "line 7 has class 'n03'"), ("x.JPEG\tn01\n", "names x.JPEG, which")],
)
def test_annotations_that_do_not_fit(tiny: Path, line: str, message: str) -> None:
    listing = tiny / "val" / "val_annotations.txt"
    listing.write_text(listing.read_text() + line)
    with pytest.raises(InputError, match=message):
        load(f"imagefolder:{tiny}")


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load(f"imagefolder:{tmp_path / 'no'}")
    with pytest.raises(InputError, match="has no folders with images"):
        load(f"imagefolder:{tmp_path}")
    with pytest.raises(InputError, match="lacks its folder"):
        load("imagefolder:")


def cifar_part(n: int, classes: int, seed: int) -> tuple[np.ndarray, list[int]]:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (n, 3072), dtype=np.uint8), [i % classes for i in range(n)]


def write_python(folder: Path, classes: int) -> None:
    folder.mkdir()
    ten = classes == 10
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    for seed, name in enumerate(names):
        pixels, labels = cifar_part(20 if ten else 200, classes, seed)
        record: dict[bytes, Any] = {b"data": pixels, b"filenames": [b"x.png"] * len(labels)}
        record |= {b"labels": labels} if ten else {b"fine_labels": labels, b"coarse_labels": labels}
        with (folder / name).open("wb") as file:
            pickle.dump(record, file, protocol=2)


def write_binary(folder: Path, classes: int) -> None:
    folder.mkdir()
    ten = classes == 10
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    for seed, name in enumerate(names):
        pixels, labels = cifar_part(20 if ten else 200, classes, seed)
        marks = np.array([labels] if ten else [[7] * len(labels), labels], np.uint8).T
        (folder / f"{name}.bin").write_bytes(np.hstack([marks, pixels]).tobytes())


@pytest.mark.parametrize("classes", [10, 100])
def test_both_versions_of_cifar_are_the_same_images(tmp_path: Path, classes: int) -> None:
    write_python(
        tmp_path / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python"), classes
    )
    other = tmp_path / "binary"
    other.mkdir()
    inner = other / ("cifar-10-batches-bin" if classes == 10 else "cifar-100-binary")
    write_binary(inner, classes)
    python, binary, direct = (load(f"cifar:{place}") for place in (tmp_path, other, inner))
    assert python.fingerprint == binary.fingerprint == direct.fingerprint
    train, n = (90, 20) if classes == 10 else (180, 200)
    assert (python.classes, len(python.train), len(python.test)) == (classes, train, n)
    pixels, _ = cifar_part(n, classes, 5 if classes == 10 else 1)
    assert (python.test.images.numpy() == pixels.reshape(-1, 3, 32, 32)).all()
    first, _ = cifar_part(n, classes, 0)
    row = int(python.train.index[3])
    assert (python.train.images[3].numpy() == first[row].reshape(3, 32, 32)).all()
    assert torch.equal(python.test.labels, torch.arange(n) % classes)


def test_inspection_opens_the_official_files_too(tmp_path: Path) -> None:
    write_python(tmp_path / "cifar-10-batches-py", 10)
    found = open_examples(f"cifar:{tmp_path}", split="test")
    assert found.n == len(load(f"cifar:{tmp_path}").test)
    with pytest.raises(InputError, match="has images and labels alone"):
        open_examples(f"cifar:{tmp_path}", kind="texts")


class Harm:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("harm",)


def test_a_pickle_that_could_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_python(tmp_path / "cifar-10-batches-py", 10)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(
        InputError, match=r"data_batch_2 is not a file of CIFAR \(it holds builtins"
    ):
        load(f"cifar:{tmp_path}")
    assert capsys.readouterr().out == ""


def test_damaged_cifar(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no official archive of CIFAR"):
        load(f"cifar:{tmp_path}")
    write_binary(tmp_path / "cifar-10-batches-bin", 10)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="no whole records of 3073"):
        load(f"cifar:{tmp_path}")
    path.unlink()
    with pytest.raises(InputError, match=r"data_batch_3\.bin: no such file"):
        load(f"cifar:{tmp_path}")


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


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_holds_nothing_out_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="give a share between 0 and 1"):
        load("digits", held_out=share)


def test_the_share_held_out_is_of_train_and_validation_together() -> None:
    data = load("digits", held_out=0.01)
    assert data.source["sizes"] == {"train": 1424, "validation": 14, "test": 359}
    assert torch.equal(data.test.index, load("digits").test.index)
    assert data.train.index.diff().gt(0).all()
    assert data.source["held_out"] == 0.01
