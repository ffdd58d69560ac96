"""Images of several domains: DomainBed's folders, or a Parquet file with a column of domains."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.domains import leave_one_out, number_of
from lowland.data.examples import in_turn
from lowland.data.files import read_source
from lowland.data.folders import image_files, listing_hash, subfolders
from lowland.data.images import ImageData, Split, assemble
from lowland.data.parquet import encoded_images
from lowland.data.settings import CORRELATION, SIZE, Form, Named, Setting, read_name
from lowland.data.sized import Lazy, sized_images
from lowland.data.spurious import spurious_rows

CLASS_COLUMNS = ("cls", "class", "category", "label")

FORM = Form(
    kind="domains",
    place="PATH",
    settings={
        "test": Setting(words="DOMAIN"),
        "spurious": Setting(words="DOMAIN+DOMAIN"),
        "classes": Setting(words="CLASS+CLASS"),
        "correlation": CORRELATION,
        "size": SIZE,
    },
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Images with classes and domains, not decoded.

    Attributes:
        where: the folder or file.
        domains, classes: names, in alphabetical order.
        domain, label: numbers of these, int64, (n,).
        read: the encoded image of a row.
        row_name: what messages call one.
        source: record of the files.
    """

    where: str
    domains: list[str]
    classes: list[str]
    domain: Tensor
    label: Tensor
    read: Callable[[int], bytes | None]
    row_name: Callable[[int], str]
    source: dict[str, Any]


def read_domains(name: str, seed: int) -> ImageData:
    """Images of ``domains:PATH``, by class, annotated with their domain.

    PATH is a folder as DomainBed has them, ``PATH/DOMAIN/CLASS/IMAGE`` (PACS, VLCS, OfficeHome,
    TerraIncognita), or a Parquet file with columns ``domain``, ``image`` (encoded) and ``cls``,
    ``class``, ``category`` or ``label``. Domains and classes are numbered in alphabetical order.
    Images become squares of ``size`` pixels, each side resized for itself, and are all held in
    memory: 3·size² bytes each.

    ``test=DOMAIN`` leaves that domain out (`leave_one_out`).

    ``spurious=A+B,classes=C+D`` makes the domain a spurious attribute: of class C (label 0) a share
    ``correlation`` is from domain A, of class D (label 1) as large a one from B; test, and others
    that are kept for fitting probes, have all four combinations equally often (`spurious_rows`).
    Several classes can be one label: ``classes=dog/horse+guitar/house``. Annotations are then
    ``domain`` (0 for A) and ``class``, the label.

    Joint values of class and domain take turns (the first image of each, the second of each, ...),
    and every split keeps that order: the first images are not all of one class in one domain.

    Raises:
        InputError: another layout, a class or a combination without images, no such domain or
            class, images that cannot be decoded or do not fit into memory.
    """
    named = read_name(name, FORM)
    path = named.path
    found = _in_file(path) if path.is_file() else _in_folders(path)
    if (named["test"] is None) == (named["spurious"] is None):
        raise InputError(
            f"data set {name!r}: give test=DOMAIN or spurious=DOMAIN+DOMAIN, one of them (domains: "
            f"{', '.join(found.domains)})"
        )
    if named["spurious"] is not None:
        return _spurious(name, named, found, seed)
    for key in ("classes", "correlation"):
        if key in named.given:
            raise InputError(f"data set {name!r}: {key} goes with spurious, not with test")
    number_of(named["test"], f"domain of {found.where}", found.domains)
    _check_whole(found)
    joint = found.domain * len(found.classes) + found.label
    rows = in_turn(joint)
    whole = _decoded(found, rows, named["size"], found.label, {"domain": found.domain})
    return leave_one_out(
        name,
        whole,
        found.domains,
        named["test"],
        augmentation="shift-flip",
        seed=seed,
        source={**found.source, "classes": found.classes},
    )


def domain_names(name: str) -> list[str]:
    """The domains of ``domains:PATH``, in alphabetical order; nothing is decoded.

    Raises:
        InputError: another layout, or no such folder or file.
    """
    path = read_name(name, FORM).path
    return (_in_file(path) if path.is_file() else _in_folders(path)).domains


def _spurious(name: str, named: Named, found: Found, seed: int) -> ImageData:
    domains = named["spurious"].split("+")
    if len(domains) != 2 or domains[0] == domains[1]:
        raise InputError(f"domains: spurious is {named['spurious']}: give two domains, as in A+B")
    groups = _two_classes(named["classes"], found)
    kind = f"domain of {found.where}"
    numbers = torch.tensor([number_of(domain, kind, found.domains) for domain in domains])
    sides = [torch.isin(found.label, torch.tensor(group)) for group in groups]
    kept = (sides[0] | sides[1]) & torch.isin(found.domain, numbers)
    label, place = sides[1].long(), (found.domain == numbers[1]).long()
    there = kept.nonzero().flatten()
    there = there[in_turn(2 * label[there] + place[there])]
    rows = spurious_rows(
        f"{found.where} ({named['classes']}; {named['spurious']})",
        label[there],
        place[there],
        named["correlation"],
        seed=seed,
    )
    together = torch.cat(list(rows.values()))
    noted = {"domain": place, "class": label}
    whole = _decoded(found, there[together], named["size"], label, noted)
    ends = itertools.accumulate(len(part) for part in rows.values())
    splits = {
        split: whole.select(torch.arange(end - len(rows[split]), end))
        for split, end in zip(rows, ends, strict=True)
    }
    names = [[found.classes[c] for c in group] for group in groups]
    return assemble(
        name,
        **splits,
        augmentation="shift-flip",
        source={
            **found.source,
            "values": {"domain": domains, "class": ["/".join(group) for group in names]},
            "core": "class",
            "spurious": "domain",
            "correlation": named["correlation"],
            "rule": "train and validation correlated, test (and what probes are fitted to) with "
            "joint values equally often",
            "split_seed": seed,
        },
    )


def _two_classes(text: str | None, found: Found) -> list[list[int]]:
    """The classes of either label."""
    groups = [group.split("/") for group in (text or "+".join(found.classes)).split("+")]
    every = [name for group in groups for name in group]
    if len(groups) != 2 or len(set(every)) < len(every):
        raise InputError(
            f"domains: classes is {text or 'not given'}: give two, as in A+B, or two groups, as in "
            f"A/B+C (classes: {', '.join(found.classes)})"
        )
    kind = f"class of {found.where}"
    return [[number_of(name, kind, found.classes) for name in group] for group in groups]


def _decoded(
    found: Found, rows: Tensor, size: int, label: Tensor, noted: dict[str, Tensor]
) -> Split:
    places = rows.tolist()
    pixels = sized_images(
        found.where,
        Lazy(lambda row: found.read(places[row]), len(places)),
        size,
        row_name=lambda row: found.row_name(places[row]),
    )
    return Split(pixels, label[rows], rows, {key: values[rows] for key, values in noted.items()})


def _check_whole(found: Found) -> None:
    """Every domain has images of every class."""
    counts = torch.zeros(len(found.domains), len(found.classes), dtype=torch.int64)
    counts.index_put_((found.domain, found.label), torch.ones_like(found.label), accumulate=True)
    if (empty := (counts == 0).nonzero()).numel():
        domain, label = found.domains[int(empty[0, 0])], found.classes[int(empty[0, 1])]
        raise InputError(
            f"{found.where}: domain {domain} has no images of class {label}: add some, or take the "
            "class out of all domains"
        )


def _in_folders(root: Path) -> Found:
    expected = f"expected {root.name}/DOMAIN/CLASS/IMAGE"
    if not root.is_dir():
        raise InputError(f"data folder {root}: no such file or folder: {FORM.example}")
    folders = subfolders(root)
    if not folders:
        raise InputError(f"{root} has no folders: {expected}")
    for folder in folders:
        if loose := image_files(folder):
            raise InputError(f"{folder} has images, first {loose[0].name}: {expected}")
        if not subfolders(folder):
            raise InputError(f"{folder} has no folders of classes: {expected}")
    classes = sorted({part.name for folder in folders for part in subfolders(folder)})
    files: list[Path] = []
    marks: list[tuple[int, int]] = []
    for domain, folder in enumerate(folders):
        for part in subfolders(folder):
            images = image_files(part)
            files += images
            marks += [(domain, classes.index(part.name))] * len(images)
    if not files:
        raise InputError(f"{root} has no images: {expected}")
    numbers = torch.tensor(marks)
    return Found(
        where=str(root),
        domains=[folder.name for folder in folders],
        classes=classes,
        domain=numbers[:, 0].clone(),
        label=numbers[:, 1].clone(),
        read=lambda row: files[row].read_bytes(),
        row_name=lambda row: str(files[row]),
        source={
            "sha256 of names and sizes": listing_hash(root, files),
            "files": len(files),
            "order": "classes and domains in turn",
        },
    )


def _in_file(path: Path) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content, digest = read_source(path, f"name a folder or Parquet file: {FORM.example}")
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        label = next((name for name in CLASS_COLUMNS if name in names), None)
        if label is None or not {"domain", "image"} <= set(names):
            raise InputError(
                f"{path} has columns {', '.join(names)}: expected domain, image and one of "
                f"{', '.join(CLASS_COLUMNS)}"
            )
        table = file.read(columns=["domain", "image", label])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a whole Parquet file ({reason}): fetch it again") from None
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    domains, domain = _numbered(path, "domain", table)
    classes, labels = _numbered(path, label, table)
    encoded = encoded_images(path, table.column("image"))
    return Found(
        where=str(path),
        domains=domains,
        classes=classes,
        domain=domain,
        label=labels,
        read=lambda row: encoded[row],
        row_name=lambda row: f"{path}: row {row}",
        source={"sha256": {path.name: digest}, "order": "classes and domains in turn"},
    )


def _numbered(path: Path, column: str, table: Any) -> tuple[list[str], Tensor]:
    """The different values of a column as words, sorted, and the number of each row's."""
    import pyarrow as pa

    kind = table.column(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    if not (pa.types.is_null(kind) or any(fits(kind) for fits in known)):
        raise InputError(f"{path}: column {column!r} holds {kind}: use words or whole numbers")
    if nulls := table.column(column).null_count:
        raise InputError(f"{path}: column {column!r} has {nulls} empty rows: fill them")
    values = table.column(column).to_pylist()
    names = sorted(set(values))
    number = {value: i for i, value in enumerate(names)}
    return [str(value) for value in names], torch.tensor([number[value] for value in values])
