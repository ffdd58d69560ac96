"""Folders by class, Tiny ImageNet and CIFAR, written here as they are."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import image, levels, png

from lowland.core.errors import InputError
from lowland.data import load, open_examples


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
