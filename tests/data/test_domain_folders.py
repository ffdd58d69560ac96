"""Images in folders by domain and class, or in a table, and domains as a spurious attribute."""

from __future__ import annotations

import dataclasses
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
from lowland.data import ImageData, Split, decorrelated, load
from lowland.data.images import assemble
from lowland.data.memory import check_memory
from lowland.data.spurious import spurious_rows

DOMAINS, CLASSES = ("art", "photo", "sketch"), ("cat", "dog", "house")


def image(domain: int, c: int, number: int, side: int = 10) -> np.ndarray:
    """An RGB image of one colour that says what it is."""
    return np.full((side, side + 2, 3), (80 * domain, 80 * c, number), np.uint8)


def count(domain: str, c: str) -> int:
    return 12 if domain == "art" else 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes, in DomainBed's folders."""
    for d, domain in enumerate(DOMAINS):
        for c, name in enumerate(CLASSES):
            place = tmp_path / "set" / domain / name
            place.mkdir(parents=True)
            for i in range(count(domain, name)):
                (place / f"{i:03}.png").write_bytes(png(image(d, c, i, 9 + i % 3)))
    return tmp_path / "set"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        rows = [
            (domain, name, png(image(d, c, i)))
            for d, domain in enumerate(DOMAINS)
            for c, name in enumerate(CLASSES)
            for i in range(count(domain, name))
        ]
        columns = dict(
            zip(("domain", "cls", "image"), map(list, zip(*rows, strict=True)), strict=True)
        )
        path = tmp_path / "set.parquet"
        pq.write_table(pa.table({**columns, **changes}), path)
        return path

    return write


def shown(split: Split) -> list[tuple[int, int]]:
    """Domain and class, as the pixels say."""
    return [(int(p[0]) // 80, int(p[1]) // 80) for p in split.images[:, :, 4, 4]]


def noted(split: Split) -> list[tuple[int, int]]:
    return list(zip(split.annotations["domain"].tolist(), split.labels.tolist(), strict=True))


def joint(split: Split) -> list[int]:
    return (2 * split.labels + split.annotations["domain"]).bincount(minlength=4).tolist()


def check_left_out(data: ImageData) -> None:
    assert {domain for domain, _ in noted(data.test)} == {2}
    assert len(data.test) == 60
    assert data.source["sizes"] == {"train": 77, "validation": 19, "test": 60}
    assert {domain for domain, _ in noted(data.validation)} == {0, 1}
    for split in data.splits.values():
        assert shown(split) == noted(split)
    assert noted(data.test)[:4] == [(2, 0), (2, 1), (2, 2), (2, 0)]
    assert set(noted(data.train)[:6]) == {(d, c) for d in (0, 1) for c in range(3)}
    assert data.source["classes"] == list(CLASSES)
    assert data.source["values"] == {"domain": list(DOMAINS)}
    assert (data.shape, data.classes, data.annotations) == ((3, 8, 8), 3, {"domain": 3})
    assert data.augmentation == "shift-flip"


def test_a_domain_of_folders_is_left_out(folder: Path) -> None:
    check_left_out(load(f"domains:{folder},test=sketch,size=8"))


def test_a_domain_of_a_table_is_left_out(table: Callable[..., Path]) -> None:
    check_left_out(load(f"domains:{table()},test=sketch,size=8"))


def test_folders_and_tables_are_the_same(folder: Path, table: Callable[..., Path]) -> None:
    one = load(f"domains:{folder},spurious=art+photo,classes=cat+dog,correlation=0.7,size=10")
    two = load(f"domains:{table()},spurious=art+photo,classes=cat+dog,correlation=0.7,size=10")
    for name in one.splits:
        assert torch.equal(one.splits[name].index, two.splits[name].index)
        assert (one.splits[name].images[:, 2] == two.splits[name].images[:, 2]).all()
        numbers = one.splits[name].images[:, 2, 4, 4].long()
        assert (numbers.diff() >= 0).all(), "classes and domains take turns"


def test_the_domain_as_a_spurious_attribute(folder: Path) -> None:
    name = f"domains:{folder},spurious=photo+sketch,classes=dog/cat+house,correlation=0.75,size=8"
    data = load(name)
    for split, counts in (("train", [10, 4, 4, 10]), ("validation", [2, 1, 1, 2])):
        assert joint(data.splits[split]) == counts
    assert data.probing is not None
    assert joint(data.test) == joint(data.probing) == [4, 4, 4, 4]
    for split in (*data.splits.values(), data.probing):
        for (domain, c), label, place in zip(
            shown(split), split.labels.tolist(), split.annotations["domain"].tolist(), strict=True
        ):
            assert (domain - 1, int(c == 2)) == (place, label)
        assert torch.equal(split.annotations["class"], split.labels)
    assert (data.source["core"], data.source["spurious"]) == ("class", "domain")
    assert data.source["values"] == {"domain": ["photo", "sketch"], "class": ["dog/cat", "house"]}
    assert joint(decorrelated(data)) == [4, 4, 4, 4]
    assert joint(load(name.replace("0.75", "1")).train) == [10, 0, 0, 10]


def test_probes_have_images_of_their_own(folder: Path) -> None:
    """Validation has as few of the rare combinations as train: too few to fit anything to."""
    name = f"domains:{folder},spurious=photo+sketch,classes=dog/cat+house,correlation=0.75,size=8"
    data = load(name)
    assert data.probing is not None
    parts = [*data.splits.values(), data.probing]
    rows = torch.cat([split.index for split in parts])
    assert len(rows.unique()) == len(rows)
    mine = set(decorrelated(data).index.tolist())
    assert mine == set(data.probing.index.tolist())
    for other in (data.first(20), data.hold_out(0.3), data.to("cpu")):
        assert other.probing is not None
        assert torch.equal(other.probing.index, data.probing.index)
    swapped = data.keep_labels([1, 0])
    assert swapped.probing is not None
    assert torch.equal(swapped.probing.labels, 1 - data.probing.labels)
    images = data.probing.images.clone()
    images[0, 0, 0, 0] ^= 1
    changed = dataclasses.replace(data.probing, images=images)
    kept = {"augmentation": data.augmentation, "source": data.source}
    again = assemble(name, **data.splits, **kept, probing=data.probing)
    assert again.fingerprint == data.fingerprint
    assert assemble(name, **data.splits, **kept, probing=changed).fingerprint != data.fingerprint
    assert load(f"domains:{folder},test=art,size=8").probing is None


@pytest.mark.parametrize("correlation", [0.5, 0.8, 0.95, 1.0])
def test_spurious_rows_are_exact_and_disjoint(correlation: float) -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (1500,), generator=draws)
    places = torch.where(torch.rand(1500, generator=draws) < 0.3, 1 - labels, labels)
    rows = spurious_rows("made", labels, places, correlation, seed=3)
    together = torch.cat(list(rows.values()))
    assert len(together.unique()) == len(together)
    rarest = (2 * labels + places).bincount().min()
    for split in ("test", "probing"):
        found = (2 * labels + places)[rows[split]].bincount().tolist()
        assert found == [round(0.2 * int(rarest))] * 4
    for split in ("train", "validation"):
        label, place = labels[rows[split]], places[rows[split]]
        assert label.bincount()[0] == label.bincount()[1]
        for value in (0, 1):
            mine = label == value
            agree = int((mine & (place == value)).sum())
            assert agree == round(correlation * int(mine.sum()))
    # nothing more could be had: a label has used up one of its two groups, up to rounding
    left = torch.ones(1500, dtype=torch.bool)
    left[together] = False
    assert int((2 * labels + places)[left].bincount(minlength=4).min()) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "",
            "give test=DOMAIN or spurious=DOMAIN+DOMAIN, one of them (domains: art, photo, sketch)",
        ),
        (",test=art,spurious=art+photo", "give test=DOMAIN or spurious=DOMAIN+DOMAIN, one of them"),
        (",test=fotos", "'fotos': did you mean 'photo'? known: art, photo, sketch"),
        (",test=art,classes=cat+dog", "classes goes with spurious, not with test"),
        (",test=art,correlation=0.9", "correlation goes with spurious, not with test"),
        (",spurious=art", "spurious is art: give two domains, as in A+B"),
        (",spurious=art+art,classes=cat+dog", "spurious is art+art: give two domains, as in A+B"),
        (",spurious=art+phto,classes=cat+dog", "'phto': did you mean 'photo'?"),
        (",spurious=art+photo", "classes is not given: give two, as in A+B, or two groups, as in"),
        (",spurious=art+photo,classes=cat+cat", "classes is cat+cat: give two"),
        (",spurious=art+photo,classes=cat+dg", "'dg': did you mean 'dog'? known: cat, dog, house"),
        (
            ",spurious=art+photo,classes=cat+dog,correlation=0.99",
            "8 images of a label with the domain that goes with it and 8 with the other are too "
            "few for correlation 0.99 in train and validation: use more images or a smaller",
        ),
        (",test=art,size=4", "domains: size is 4: give a whole number, at least 8"),
    ],
)
def test_what_cannot_be_chosen(settings: str, message: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(f"domains:{folder}{settings}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_layouts_are_named(folder: Path, tmp_path: Path) -> None:
    def refused(place: Path) -> str:
        with pytest.raises(InputError) as caught:
            load(f"domains:{place},test=art,size=8")
        return str(caught.value)

    assert refused(tmp_path / "none").endswith("none: no such file or folder: domains:PATH")
    assert refused(folder / "art" / "cat").endswith(
        "cat has no folders: expected cat/DOMAIN/CLASS/IMAGE"
    )
    classes = refused(folder / "art")
    assert classes.endswith("cat has images, first 000.png: expected art/DOMAIN/CLASS/IMAGE")
    (folder / "zoo").mkdir()
    assert "zoo has no folders of classes: expected set/DOMAIN/CLASS/IMAGE" in refused(folder)
    (folder / "zoo" / "cat").mkdir()
    (folder / "zoo" / "cat" / "0.png").write_bytes(png(image(0, 0, 0)))
    assert "domain zoo has no images of class dog: add some, or take the class" in refused(folder)
    (tmp_path / "bare" / "art" / "cat").mkdir(parents=True)
    assert "bare has no images: expected bare/DOMAIN/CLASS/IMAGE" in refused(tmp_path / "bare")


def test_one_domain_and_an_empty_combination(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (folder / "art").rename(tmp_path / "one" / "art")
    with pytest.raises(InputError, match="has one domain, art: two or more are needed"):
        load(f"domains:{tmp_path / 'one'},test=art,size=8")
    for path in (folder / "photo" / "dog").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has 0 images with label 1 and domain 0: three or more"):
        load(f"domains:{folder},spurious=photo+sketch,classes=cat+dog,size=8")


def test_damaged_images_are_named(folder: Path) -> None:
    path = folder / "photo" / "dog" / "003.png"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"photo/dog/003\.png cannot be decoded"):
        load(f"domains:{folder},test=art,size=8")


def test_tables_that_are_something_else(table: Callable[..., Path], tmp_path: Path) -> None:
    n = len(pq.read_table(table()))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"domain": [None] * n}, "column 'domain' has 156 empty rows: fill them"),
        ({"cls": [["cat"]] * n}, "column 'cls' holds list.*: use words or whole numbers"),
        ({"domain": [0.5] * n}, "column 'domain' holds double: use words or whole numbers"),
        ({"image": ["x"] * n}, "column 'image' holds string: use encoded bytes"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            load(f"domains:{table(**changes)},test=art,size=8")
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"image": [b""], "label": [0]}), other)
    with pytest.raises(InputError, match="columns image, label: expected domain, image and one of"):
        load(f"domains:{other},test=art")
    pq.write_table(pq.read_table(table()).slice(0, 0), other)
    with pytest.raises(InputError, match="has no rows"):
        load(f"domains:{other},test=art")
    other.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is not a whole Parquet file"):
        load(f"domains:{other},test=art")


def test_hidden_files_and_folders_are_no_images(folder: Path) -> None:
    """What macOS puts beside files and into archives, and what tools leave."""
    before = load(f"domains:{folder},test=art,size=8").fingerprint
    for place in ("__MACOSX/art/cat", ".git/x"):
        (folder / place).mkdir(parents=True)
        (folder / place / "0.png").write_bytes(png(image(0, 0, 0)))
    (folder / "art" / "cat" / "._000.png").write_bytes(b"Mac OS X")
    (folder / "art" / "cat" / "Thumbs.db").write_bytes(b"no image")
    (folder / "art" / ".DS_Store").write_bytes(b"no image")
    (folder / "README.txt").write_text("about")
    assert load(f"domains:{folder},test=art,size=8").fingerprint == before


def test_images_that_do_not_fit_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowland.data.memory.free_memory", lambda: 156 * 2 * 3 * 64 - 1)
    with pytest.raises(InputError, match=r"156 images of 8x8 pixels take 0.0 GiB to read"):
        load(f"domains:{folder},test=art,size=8")
    monkeypatch.setattr("lowland.data.memory.free_memory", lambda: None)
    check_memory("here", 10**9, 10**4, 10**4, remedy="")  # where the system does not say
