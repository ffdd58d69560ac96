"""Waterbirds in its official layout."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lowland.core.errors import InputError
from lowland.data.files import read_source
from lowland.data.images import ImageData
from lowland.data.listed import assemble_listed, binary, split_numbers
from lowland.data.settings import SIZE, Form, read_name

FORM = Form(kind="waterbirds", place="FOLDER", settings={"size": SIZE})

LIST = "metadata.csv"
COLUMNS = ("img_filename", "y", "split", "place")


def read_waterbirds(name: str, seed: int) -> ImageData:
    """Birds of ``waterbirds:FOLDER``: landbirds (label 0) and waterbirds, on land and on water.

    FOLDER is what the official archive (waterbird_complete95_forest2water2) unpacks to:
    ``metadata.csv`` with columns img_filename, y, split (0 train, 1 validation, 2 test) and place
    (0 land, 1 water), and the images that it names. Annotations are ``bird``, the label, and
    ``place``, which goes with it in 95% of train. The splits are those of the list: in validation
    and test each bird is on either place equally often, but landbirds are more; errors are to be
    given by group.

    Images become squares of ``size`` pixels (224), each side resized for itself. All 11,788 are
    held in memory, 3·size² bytes each: 1.8 GB, twice that while they are read. `seed` decides
    nothing.

    Source: arXiv 1911.08731.

    Raises:
        InputError: another layout, images that are missing, damaged or do not fit into memory.
    """
    named = read_name(name, FORM)
    root = named.path
    table, digest = _list(root)
    where = f"{root / LIST}: column"
    return assemble_listed(
        name,
        root,
        [root / file for file in table["img_filename"]],
        split_numbers(f"{where} 'split'", table["split"]),
        {
            "bird": binary(f"{where} 'y'", table["y"], ("0", "1")),
            "place": binary(f"{where} 'place'", table["place"], ("0", "1")),
        },
        core="bird",
        spurious="place",
        size=named["size"],
        source={
            "sha256": {LIST: digest},
            "values": {"bird": ["landbird", "waterbird"], "place": ["land", "water"]},
        },
    )


def _list(root: Path) -> tuple[dict[str, list[str]], str]:
    """The columns of the list that are needed, and its SHA-256."""
    content, digest = read_source(
        root / LIST, f"name the folder that the archive unpacks to: {FORM.example}"
    )
    rows = csv.DictReader(io.StringIO(content.decode("utf-8", "replace")))
    names = rows.fieldnames or []
    for column in COLUMNS:
        if column not in names:
            raise InputError(
                f"{root / LIST} has columns {', '.join(names)}: expected {', '.join(COLUMNS)}"
            )
    found = list(rows)
    if not found:
        raise InputError(f"{root / LIST} has no rows: fetch it again")
    return {column: [str(row[column]).strip() for row in found] for column in COLUMNS}, digest
