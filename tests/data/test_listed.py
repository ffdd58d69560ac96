"""Waterbirds and CelebA, written here in their official layouts."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import png

from lowland.core.errors import InputError
from lowland.data import Split, decorrelated, load

SIZES = (12, 4, 8)
"""Images of each group in train, validation and test, but for the minority of train: two."""


def made() -> list[tuple[int, int, int]]:
    """(split, label, attribute) of every image."""
    return [
        (split, y, a)
        for split, n in enumerate(SIZES)
        for y, a in itertools.product((0, 1), repeat=2)
        for _ in range(2 if split == 0 and y != a else n)
    ]


def image(y: int, a: int, number: int) -> np.ndarray:
    return np.full((9 + number % 3, 10, 3), (200 * y, 200 * a, number), np.uint8)


def write_waterbirds(root: Path, **changes: Any) -> Path:
    rows = []
    for i, (split, y, a) in enumerate(made()):
        file = f"{i % 5:03}.Bird/{i:03}.jpg"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(png(image(y, a, i), "PNG"))
        rows.append(
            {
                "img_id": i,
                "img_filename": file,
                "y": y,
                "split": split,
                "place": a,
                "place_filename": "/o/ocean/0.jpg",
            }
            | {key: value for key, value in changes.items() if i == 7 or key == "place"}
        )
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return root


def write_celeba(root: Path, kind: str = "txt") -> Path:
    names = ["Bald", "Blond_Hair", "Male", "Young"]
    lines, parts = [], []
    inner = root / "img_align_celeba" / ("img_align_celeba" if kind == "csv" else "")
    inner.mkdir(parents=True)
    for i, (split, y, a) in enumerate(made()):
        file = f"{i + 1:06}.jpg"
        (inner / file).write_bytes(png(image(y, a, i)))
        lines.append([file, "-1", str(2 * y - 1), str(2 * a - 1), "1" if i % 2 else "-1"])
        parts.append([file, str(split)])
    if kind == "txt":
        text = [str(len(lines)), " ".join(names) + " ", *("  ".join(line) for line in lines)]
        parts_text = [" ".join(part) for part in parts]
    else:
        text = [",".join(["image_id", *names]), *(",".join(line) for line in lines)]
        parts_text = ["image_id,partition", *(",".join(part) for part in parts)]
    (root / f"list_attr_celeba.{kind}").write_text("\n".join(text) + "\n")
    (root / f"list_eval_partition.{kind}").write_text("\n".join(parts_text) + "\n")
    return root


def joint(split: Split, name: str) -> list[int]:
    return (2 * split.labels + split.annotations[name]).bincount(minlength=4).tolist()


def check(data: Any, spurious: str) -> None:
    assert data.source["sizes"] == {"train": 28, "validation": 16, "test": 32}
    assert joint(data.train, spurious) == [12, 2, 2, 12]
    assert joint(data.validation, spurious) == [4] * 4
    assert joint(data.test, spurious) == [8] * 4
    for split in data.splits.values():
        assert torch.equal(split.images[:, 0, 4, 4].long(), 200 * split.labels)
        assert torch.equal(split.images[:, 1, 4, 4].long(), 200 * split.annotations[spurious])
        assert torch.equal(split.images[:, 2, 4, 4].long(), split.index)
        assert torch.equal(split.annotations[data.source["core"]], split.labels)
    assert (data.shape, data.classes, data.augmentation) == ((3, 16, 16), 2, "shift-flip")
    assert data.source["spurious"] == spurious
    assert joint(decorrelated(data), spurious) == [4] * 4


def test_waterbirds(tmp_path: Path) -> None:
    data = load(f"waterbirds:{write_waterbirds(tmp_path)},size=16")
    check(data, "place")
    assert data.annotations == {"bird": 2, "place": 2}
    assert data.source["values"]["place"] == ["land", "water"]


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_celeba(kind: str, tmp_path: Path) -> None:
    root = write_celeba(tmp_path, kind)
    check(load(f"celeba:{root},size=16"), "Male")
    other = load(f"celeba:{root},size=16,label=Male,spurious=Blond_Hair")
    assert torch.equal(other.train.labels, load(f"celeba:{root},size=16").train.annotations["Male"])
    assert other.annotations == {"Male": 2, "Blond_Hair": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": 2}, "metadata.csv: column 'y' of image 8 is '2': expected 0 or 1"),
        ({"split": 3}, "'split' of image 8 is '3': expected 0 (train), 1 (validation) or 2 (test)"),
        ({"img_filename": "x.jpg"}, "1 of 76 images are missing, first x.jpg: unpack the archive"),
        ({"place": 1}, "test has no image with bird = 0 and place = 0: every combination is"),
    ],
)
def test_waterbirds_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_waterbirds(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load(f"waterbirds:{tmp_path},size=16")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_that_is_named_by_a_whole_path(tmp_path: Path) -> None:
    write_waterbirds(tmp_path, img_filename="/nowhere/x.jpg")
    with pytest.raises(InputError, match=r"1 of 76 images are missing, first /nowhere/x\.jpg"):
        load(f"waterbirds:{tmp_path},size=16")


def test_waterbirds_in_another_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metadata\.csv: no such file.*: waterbirds:FOLDER"):
        load(f"waterbirds:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("img_filename,y,split\n")
    with pytest.raises(InputError, match="has columns img_filename, y, split: expected img_filen"):
        load(f"waterbirds:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("img_filename,y,split,place\n")
    with pytest.raises(InputError, match="has no rows"):
        load(f"waterbirds:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("img_filename,y,split,place\na.jpg,0,0,1\n")
    with pytest.raises(InputError, match="the list has no validation images: fetch the whole"):
        load(f"waterbirds:{tmp_path}")


def replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, "label=Blond", "unknown attribute of celeba 'Blond': did you mean 'Blond_Hair'?"),
        (None, "spurious=Blond_Hair", "label and spurious are both Blond_Hair: name two"),
        (None, "spurious=Bald", "test has no image with Blond_Hair = 0 and Bald = 1"),
        (
            lambda root: (root / "img_align_celeba" / "000003.jpg").unlink(),
            "size=16",
            "1 of 76 images are missing, first img_align_celeba/000003.jpg",
        ),
        (
            lambda root: (root / "img_align_celeba").rename(root / "images"),
            "size=16",
            "has no folder img_align_celeba: unpack img_align_celeba.zip there",
        ),
        (
            lambda root: (root / "list_attr_celeba.txt").unlink(),
            "size=16",
            "list_attr_celeba.txt: no such file or directory: name the folder with img_align",
        ),
        (
            replaced("list_attr_celeba.txt", "Young", "Young Old"),
            "size=16",
            "list_attr_celeba.txt: line 3 has 5 entries, expected a file and 5",
        ),
        (
            replaced("list_attr_celeba.txt", "000002.jpg", "000002.png"),
            "size=16",
            "000002.jpg is in list_eval_partition and not in list_attr_celeba",
        ),
        (
            replaced("list_eval_partition.txt", "000076.jpg 2\n", ""),
            "size=16",
            "000076.jpg is in list_attr_celeba and not in list_eval_partition",
        ),
        (
            replaced("list_attr_celeba.txt", "76\n", "77\n"),
            "size=16",
            "says in its first line that there are '77' images, 76 follow: fetch it again",
        ),
        (
            replaced("list_eval_partition.txt", "000001.jpg 0", "000001.jpg 5"),
            "size=16",
            "partition of image 1 is '5': expected 0 (train), 1 (validation) or 2 (test)",
        ),
        (
            replaced("list_attr_celeba.txt", "000001.jpg  -1  -1", "000001.jpg  -1  0"),
            "size=16",
            "Blond_Hair of image 1 is '0': expected -1 or 1",
        ),
        (
            lambda root: (root / "list_attr_celeba.txt").write_text("0\nBlond_Hair Male\n"),
            "size=16",
            "list_attr_celeba.txt names no images: fetch it again",
        ),
    ],
)
def test_celeba_that_does_not_fit(
    change: Callable[[Path], Any] | None, settings: str, message: str, tmp_path: Path
) -> None:
    root = write_celeba(tmp_path)
    if change is not None:
        change(root)
    with pytest.raises(InputError) as caught:
        load(f"celeba:{root},{settings}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_probes_need_every_group_in_validation(tmp_path: Path) -> None:
    root = write_waterbirds(tmp_path)
    lines = (root / "metadata.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if ",0,1,1," not in line]  # landbird, validation, water
    (root / "metadata.csv").write_text("".join(kept))
    data = load(f"waterbirds:{root},size=16")
    with pytest.raises(InputError, match="validation has no image with bird = 0 and place = 1"):
        decorrelated(data)
