"""CelebA in its official layout, or in the one of Kaggle."""

from __future__ import annotations

from pathlib import Path

from lowland.core.errors import InputError, unknown
from lowland.data.files import read_source
from lowland.data.images import ImageData
from lowland.data.listed import assemble_listed, binary, split_numbers
from lowland.data.settings import Form, Setting, read_name, whole

FORM = Form(
    kind="celeba",
    place="FOLDER",
    settings={
        "label": Setting(words="ATTRIBUTE", default="Blond_Hair"),
        "spurious": Setting(words="ATTRIBUTE", default="Male"),
        "size": Setting(words="PIXELS", read=whole(8), default=64),
    },
)

IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"

Rows = dict[str, list[str]]


def read_celeba(name: str, seed: int) -> ImageData:
    """Faces of ``celeba:FOLDER``; the label is one attribute, another one goes with it.

    FOLDER has ``img_align_celeba`` with the aligned images, ``list_attr_celeba.txt`` (a number, the
    names of the attributes, then a line for each image: its file and 1 or -1 for each) and
    ``list_eval_partition.txt`` (file, then 0 train, 1 validation or 2 test), or the same as
    ``.csv`` with a line of names. ``label`` and ``spurious`` are names of attributes, hair colour
    and sex as annotated there unless told otherwise; they are the annotations. The splits are
    those of the list, in its order; groups are not equally often in them.

    Images (178x218) become squares of ``size`` pixels (64), each side resized for itself, without
    cutting anything off. All 202,599 are held in memory, 3·size² bytes each: 2.5 GB at 64 and
    30 GB at 224, twice that while they are read. `seed` decides nothing.

    Source: Z. Liu et al., Deep learning face attributes in the wild, 2015 (arXiv 1411.7766); blond
    hair and sex as in arXiv 1911.08731.

    Raises:
        InputError: another layout, an unknown attribute, images that are missing, damaged or do
            not fit into memory.
    """
    named = read_name(name, FORM)
    root = named.path
    attributes, names, digests = _table(root, ATTRIBUTES)
    label, spurious = named["label"], named["spurious"]
    for attribute in (label, spurious):
        if attribute not in names:
            raise unknown("attribute of celeba", attribute, names)
    if label == spurious:
        raise InputError(f"celeba: label and spurious are both {label}: name two attributes")
    partition, _, digest = _table(root, PARTITION)
    files = list(partition)
    for one, other in ((PARTITION, ATTRIBUTES), (ATTRIBUTES, PARTITION)):
        lists = {PARTITION: partition, ATTRIBUTES: attributes}
        if different := [file for file in lists[one] if file not in lists[other]]:
            raise InputError(
                f"{root}: {different[0]} is in {one} and not in {other}: fetch both again"
            )
    return assemble_listed(
        name,
        root,
        [_images(root) / file for file in files],
        split_numbers(f"{root}: partition", [partition[file][0] for file in files]),
        {
            attribute: binary(
                f"{root}: {attribute}",
                [attributes[file][names.index(attribute)] for file in files],
                ("-1", "1"),
            )
            for attribute in (label, spurious)
        },
        core=label,
        spurious=spurious,
        size=named["size"],
        source={"sha256": {**digests, **digest}},
    )


def _images(root: Path) -> Path:
    for folder in (root / IMAGES / IMAGES, root / IMAGES):  # Kaggle's archive has one in the other
        if folder.is_dir():
            return folder
    raise InputError(f"{root} has no folder {IMAGES}: unpack {IMAGES}.zip there")


def _table(root: Path, stem: str) -> tuple[Rows, list[str], dict[str, str]]:
    """File -> its words, the names of these (none for the partition as text), and the SHA-256."""
    path = root / f"{stem}.csv"
    if not path.is_file():
        path = root / f"{stem}.txt"
    content, digest = read_source(
        path, f"name the folder with {IMAGES}, {ATTRIBUTES} and {PARTITION}: {FORM.example}"
    )
    lines = content.decode("utf-8", "replace").splitlines()
    start, names = 0, ["partition"]
    if path.suffix == ".csv":
        start, names = 1, lines[0].split(",")[1:] if lines else []
    elif stem == ATTRIBUTES:
        start, names = 2, lines[1].split() if len(lines) > 1 else []
    rows: Rows = {}
    for number, line in enumerate(lines[start:], start=start + 1):
        words = [w.strip() for w in line.split(",")] if path.suffix == ".csv" else line.split()
        if not words:
            continue
        if len(words) != len(names) + 1:
            raise InputError(
                f"{path}: line {number} has {len(words)} entries, expected a file and "
                f"{len(names)}: fetch it again"
            )
        rows[words[0]] = words[1:]
    if not rows:
        raise InputError(f"{path} names no images: fetch it again")
    if start == 2 and lines[0].strip() != str(len(rows)):
        raise InputError(
            f"{path} says in its first line that there are {lines[0].strip()!r} images, "
            f"{len(rows)} follow: fetch it again"
        )
    return rows, [name.strip() for name in names], {path.name: digest}
