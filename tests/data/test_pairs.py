"""Images with captions: every source, its splits and its faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_images import png

from lowland.core.errors import InputError
from lowland.data import PairSplit, assemble_pairs, load, load_pairs
from lowland.data.pairs import check_captions, random_rows

Columns = dict[str, Any]
DATA = Path(__file__).parents[2] / "../shared/data"


def pixels(n: int = 20, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def captions(n: int = 20) -> list[list[str]]:
    return [[f"image {i}", f"number {i} again"][: 1 + i % 2] for i in range(n)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    def write(**changes: Any) -> str:
        columns = {"image": [png(p) for p in pixels()], "captions": captions(), **changes}
        kept = {name: values for name, values in columns.items() if values is not None}
        pq.write_table(pa.table(kept), tmp_path / "pairs.parquet")
        return f"parquet:{tmp_path / 'pairs.parquet'}"

    return write


def test_pixels_and_captions_stay_together(written: Callable[..., str]) -> None:
    data = load_pairs(written())
    assert data.shape == (3, 6, 8)
    assert data.largest == 255.0
    assert [len(split) for split in data.splits.values()] == [14, 2, 4]
    for split in data.splits.values():
        for image, texts, row in zip(split.images, split.captions, split.index, strict=True):
            assert (image.permute(1, 2, 0).numpy() == pixels()[row]).all()
            assert list(texts) == captions()[row]
    mean = torch.tensor(data.mean).view(-1, 1, 1)
    assert torch.allclose(data.train.images.double().mean((0, 2, 3)), mean.flatten().double())


def test_a_split_column_is_followed_and_completed(written: Callable[..., str]) -> None:
    marked = ["train2017"] * 12 + ["val2017"] * 8
    data = load_pairs(written(split=marked))
    assert sorted(data.test.index.tolist()) == list(range(12, 20))
    held = data.validation.index.tolist() + data.train.index.tolist()
    assert sorted(held) == list(range(12))
    assert len(data.validation) == 1
    whole = load_pairs(written(split=["train"] * 10 + ["val"] * 4 + ["test"] * 6))
    assert whole.validation.index.tolist() == [10, 11, 12, 13]


def test_one_caption_a_row_and_other_names(written: Callable[..., str]) -> None:
    plain = [texts[0] for texts in captions()]
    found = load_pairs(written(captions=None, text=plain))
    assert found.train.captions[0] == (plain[int(found.train.index[0])],)
    named = written(captions=None, image=None, picture=[png(p) for p in pixels()], words=plain)
    found = load_pairs(named, image_column="picture", caption_column="words")
    assert len(found.train) == 14


def test_rows_of_one_image_are_one_image_with_all_captions(written: Callable[..., str]) -> None:
    """A row for every caption: split by rows, the same image would be in train and in test."""
    images = [png(p) for p in pixels() for _ in range(2)]
    texts = [f"image {i}, text {k}" for i in range(20) for k in range(2)]
    data = load_pairs(written(image=images, captions=None, caption=texts))
    one = load_pairs(written(captions=[texts[2 * i : 2 * i + 2] for i in range(20)]))
    for name, split in data.splits.items():
        assert torch.equal(split.images, one.splits[name].images)
        assert split.captions == one.splits[name].captions
        assert torch.equal(split.index, 2 * one.splits[name].index)
    assert data.source["rule"].endswith("; 20 rows are joined to others of the same image")
    twice = [[f"image {i // 2}"] for i in range(40)]
    assert load_pairs(written(image=images, captions=twice)).train.captions[0] == ("image 0",)
    marked = load_pairs(written(image=images, captions=twice, split=["train"] * 30 + ["val"] * 10))
    assert marked.test.index.tolist() == [30, 32, 34, 36, 38]
    with pytest.raises(InputError, match=r"rows 30 \(train\) and 31 \(test\) hold the same image"):
        load_pairs(written(image=images, captions=twice, split=["train"] * 31 + ["test"] * 9))


def test_images_of_many_sizes_become_squares(tmp_path: Path) -> None:
    flat = np.full((9, 5, 3), 77, dtype=np.uint8)
    images = [png(flat), *(png(p) for p in pixels(5)), png(pixels(1, (4, 4))[0])]
    table = pa.table({"image": images, "captions": captions(7)})
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match="row 1 is 8x6 pixels, the first is 5x9"):
        load_pairs(f"parquet:{tmp_path / 'p.parquet'}")
    data = load_pairs(f"parquet:{tmp_path / 'p.parquet'}", size=4)
    assert data.shape == (3, 4, 4)
    by_row = {
        int(row): image
        for split in data.splits.values()
        for row, image in zip(split.index, split.images, strict=True)
    }
    assert (by_row[0] == 77).all()
    assert (by_row[6].permute(1, 2, 0).numpy() == pixels(1, (4, 4))[0]).all()


def test_limit_takes_the_first_training_pairs(written: Callable[..., str]) -> None:
    whole, some = load_pairs(written()), load_pairs(written(), limit=5)
    assert torch.equal(some.train.index, whole.train.index[:5])
    assert some.train.captions == whole.train.captions[:5]
    assert some.fingerprint != whole.fingerprint
    assert torch.equal(some.test.images, whole.test.images)


def test_a_changed_caption_changes_the_fingerprint(written: Callable[..., str]) -> None:
    other = captions()
    other[3] = ["image three"]
    assert load_pairs(written()).fingerprint != load_pairs(written(captions=other)).fingerprint


FAULTS: dict[str, tuple[Columns, str]] = {
    "no images": ({"image": None}, "no column 'image' or 'img' or 'jpg' with images .it has capt"),
    "no captions": ({"captions": None}, "no column 'captions'.*set caption_column"),
    "an image without": ({"captions": [["a"]] * 19 + [[]]}, "row 19 has no caption: give it one"),
    "null": ({"captions": [["a"]] * 19 + [None]}, "row 19 has NoneType in place of a list"),
    "empty": ({"captions": [["a"]] * 19 + [["a", "  "]]}, "row 19 has an empty caption"),
    "numbers": ({"captions": [[1]] * 20}, "row 0 has a caption of type int: captions are texts"),
    "a number": ({"captions": list(range(20))}, "row 0 has int in place of a list"),
    "strange split": ({"split": ["dev"] * 20}, "row 0 has split 'dev': use train, validation"),
    "paths": ({"image": ["a.png"] * 20}, "column 'image' holds string"),
    "no bytes": ({"image": [png(pixels()[0])] * 19 + [None]}, "row 19 holds no image bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(written: Callable[..., str], fault: str) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(InputError, match=message) as raised:
        load_pairs(written(**changes))
    assert "\n" not in str(raised.value)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'digits-captions'\?"):
        load_pairs("digits-caption")
    with pytest.raises(InputError, match="no such file"):
        load_pairs(f"parquet:{tmp_path / 'none.parquet'}")
    with pytest.raises(InputError, match="lacks its place"):
        load_pairs("coco:")
    with pytest.raises(InputError, match="takes no size"):
        load_pairs("digits-captions", size=16)
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="is not a whole Parquet file"):
        load_pairs(f"parquet:{tmp_path / 'half.parquet'}")


def test_lists_that_do_not_match_images() -> None:
    with pytest.raises(InputError, match="3 lists of captions for 4 images: give one list"):
        check_captions("made", [1, 2, 3, 4], [["a"]] * 3)
    with pytest.raises(InputError, match="there are no pairs"):
        check_captions("made", [], [])
    with pytest.raises(InputError, match="row 7 has str in place of a list"):
        check_captions("made", [1], ["a caption"], [7])
    split = PairSplit(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), (("a",),), torch.arange(2))
    with pytest.raises(InputError, match="made, train: 1 lists of captions for 2 images"):
        assemble_pairs("made", train=split, validation=split, test=split, largest=1, source={})


def test_rows_held_out_at_random_are_all_rows() -> None:
    rows = random_rows(50, {"test": 0.2, "validation": 0.1}, seed=3)
    assert [len(rows[name]) for name in ("test", "validation", "train")] == [10, 4, 36]
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(50))
    assert not torch.equal(rows["test"], random_rows(50, {"test": 0.2}, seed=4)["test"])
    with pytest.raises(InputError, match="2 pairs cannot make"):
        random_rows(2, {"test": 0.2, "validation": 0.1}, seed=0)


def coco(folder: Path, **changes: Any) -> str:
    """A folder in COCO's layout: 8 train and 3 val images, 2 captions each."""
    (folder / "annotations").mkdir()
    for part, n, first in (("train", 8, 100), ("val", 3, 500)):
        images = [{"id": first + i, "file_name": f"{part}_{i}.jpg"} for i in range(n)]
        texts = [
            {"id": 10 * i + k, "image_id": first + i, "caption": f"{part} {i} text {k}"}
            for k in range(2)  # not sorted by image, as the official files are not
            for i in reversed(range(n))
        ]
        content = {"images": images, "annotations": texts, **changes.get(part, {})}
        (folder / "annotations" / f"captions_{part}2014.json").write_text(json.dumps(content))
        (folder / f"{part}2014").mkdir()
        for i in range(n):
            (folder / f"{part}2014" / f"{part}_{i}.jpg").write_bytes(png(pixels(n)[i]))
    return f"coco:{folder}"


def test_coco_as_it_is_distributed(tmp_path: Path) -> None:
    data = load_pairs(coco(tmp_path))
    assert [len(split) for split in data.splits.values()] == [7, 1, 3]
    assert data.test.captions[1] == ("val 1 text 0", "val 1 text 1")
    assert (data.test.images[1].permute(1, 2, 0).numpy() == pixels(3)[1]).all()


def test_a_folder_that_changes_is_read_again(tmp_path: Path) -> None:
    name = coco(tmp_path)
    before = load_pairs(name)
    assert load_pairs(name).train.images is before.train.images, "not decoded again"
    (tmp_path / "val2014" / "val_1.jpg").write_bytes(png(255 - pixels(3)[1]))
    after = load_pairs(name)
    assert after.fingerprint != before.fingerprint
    assert (after.test.images[1].permute(1, 2, 0).numpy() == 255 - pixels(3)[1]).all()


def test_coco_faults_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_pairs(f"coco:{tmp_path / 'none'}")
    with pytest.raises(InputError, match=r"has no annotations/captions_train2014\.json"):
        load_pairs(f"coco:{tmp_path}")
    alien = [{"id": 1, "image_id": 999, "caption": "whose?"}]
    cases = {
        "belongs to image 999, which is not among": {"train": {"annotations": alien}},
        "row 0 has no caption": {"train": {"annotations": []}},
        "an entry lacks 'image_id'": {"val": {"annotations": [{"caption": "a"}]}},
        "has no lists 'images' and": {"train": {"images": None}},
    }
    for number, (message, changes) in enumerate(cases.items()):
        (tmp_path / str(number)).mkdir()
        name = coco(tmp_path / str(number), **changes)
        if "no lists" in message:
            file = tmp_path / str(number) / "annotations" / "captions_train2014.json"
            file.write_text("[]")
        with pytest.raises(InputError, match=message):
            load_pairs(name)
    (tmp_path / "good").mkdir()
    name = coco(tmp_path / "good")
    (tmp_path / "good" / "train2014" / "train_3.jpg").unlink()
    with pytest.raises(InputError, match=r"train_3.jpg: no such file.*unpack COCO's images there"):
        load_pairs(name)


def test_a_folder_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": png(p), "path": None} for p in pixels()],
        "sentences": captions(),
    }
    features = datasets.Features(
        {"image": datasets.Image(), "sentences": datasets.Sequence(datasets.Value("string"))}
    )
    whole = datasets.Dataset.from_dict(rows, features=features)
    parts = {"train": whole.select(range(14)), "test": whole.select(range(14, 20))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = load_pairs(f"hf:{tmp_path / 'saved'}")
    assert data.test.index.tolist() == list(range(14, 20))
    assert [list(texts) for texts in data.test.captions] == captions()[14:]
    assert (data.test.images[0].permute(1, 2, 0).numpy() == pixels()[14]).all()
    with pytest.raises(InputError, match=r"no column .words. with captions \(it has image, sent"):
        load_pairs(f"hf:{tmp_path / 'saved'}", caption_column="words")


def test_digits_keep_their_splits() -> None:
    pairs, digits = load_pairs("digits-captions"), load("digits")
    for name, split in pairs.splits.items():
        assert torch.equal(split.images, digits.splits[name].images)
        assert torch.equal(split.index, digits.splits[name].index)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not there")
def test_the_shared_files_are_read() -> None:
    data = load_pairs(f"parquet:{DATA / 'coco_mini_224.parquet'}", size=16)
    assert sum(len(split) for split in data.splits.values()) == 239
    assert all(len(texts) == 5 for texts in data.train.captions)
