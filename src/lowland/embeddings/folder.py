"""The folder of a compression: whole, or not there.

transform.safetensors    mean (d,), components (k, d), scale (1,); what was chosen as metadata
index.faiss              takes vectors as they are: normalisation and transform are in it
compression.json         the record
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_atomically, write_json
from lowland.embeddings.compressed import Compressed, from_parts, read_index
from lowland.embeddings.files import open_vectors
from lowland.embeddings.package import BUFFERS, faiss, reserve_buffer
from lowland.embeddings.record import FORMAT, Compression
from lowland.embeddings.vectors import Vectors

RECORD, TRANSFORM, INDEX = "compression.json", "transform.safetensors", "index.faiss"


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written or holds other things, before the work is done.

    Raises:
        InputError: so.
    """
    if folder.is_dir():
        others = {path.name for path in folder.iterdir()} - {RECORD, TRANSFORM, INDEX}
        if others:
            raise InputError(
                f"{folder} holds other things ({sorted(others)[0]}): choose another --out"
            )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another --out")
    if folder.is_dir() and (os.path.ismount(folder) or folder.resolve() == Path.cwd()):
        raise InputError(f"--out {folder}: cannot be replaced as a whole: name a folder in it")
    place = folder.resolve().parent  # a new folder is made there, and takes the place of this one
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"--out {folder}: {place} is a file: choose another folder")
    if not os.access(place, os.W_OK):
        raise InputError(f"--out {folder}: {place} cannot be written: choose another folder")


def write_folder(folder: Path, found: Compressed, record: dict[str, Any]) -> None:
    """Write all three files, or nothing: into a folder beside it, which then takes its place.

    Raises:
        InputError: it cannot be written.
    """
    check_folder(folder)
    folder = folder.resolve()  # what a link leads to is replaced, not the link
    made = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.mkdir()
        _write(made, found, record)
        _take_place(made, folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(folder: Path, found: Compressed, record: dict[str, Any]) -> None:
    from safetensors.numpy import save

    library = faiss()
    write_atomically(
        folder / INDEX,
        lambda file: library.write_index(found.index, library.PyCallbackIOWriter(file.write)),
    )
    tensors = {
        "mean": found.mean,
        "components": found.components,
        "scale": np.array([found.scale], np.float32),
    }
    words = ("format", "metric", "target", "quantizer", "dimensions", "index", "setting", "rerank")
    metadata = {word: str(record[word]) for word in words}
    write_atomically(folder / TRANSFORM, lambda file: file.write(save(tensors, metadata)))
    record["after"]["index_bytes"] = (folder / INDEX).stat().st_size
    write_json(folder / RECORD, record)


def _take_place(made: Path, folder: Path) -> None:
    if not folder.exists():
        made.rename(folder)
        return
    old = folder.parent / f".{folder.name}.{os.getpid()}.old"
    folder.rename(old)
    try:
        made.rename(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder.

    Raises:
        InputError: there is none.
    """
    record = read_json(folder / RECORD, "compression")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{folder / RECORD} is no record of a compression by this lowland")
    if missing := {one.name for one in fields(Compression)} - {"result", *record}:
        raise InputError(f"{folder / RECORD} lacks {sorted(missing)[0]!r}: compress again")
    return record


def load(folder: str | Path, *, features: Any = None, column: str | None = None) -> Compressed:
    """Compressed vectors from their folder.

    Args:
        folder: what `compress` or ``lowland compress`` wrote.
        features: the vectors themselves, where they are put in order by them (``--rerank``); by
            default the file that was compressed.
        column: of that file.

    Raises:
        InputError: no such folder, files that are damaged or do not belong together, features of
            another size, or no memory for products of matrices.
    """
    folder = Path(folder)
    record = read_record(folder)
    for name in BUFFERS:
        reserve_buffer(name)
    tensors = _read_tensors(folder / TRANSFORM)
    index = read_index(folder / INDEX)
    n, d = record["features"]["n"], record["features"]["dimension"]
    k = record["dimensions"]
    if (
        tensors["components"].shape != (k, d)
        or tensors["mean"].shape != (d,)
        or tensors["scale"].shape != (1,)
        or (index.ntotal, index.d) != (n, d)
    ):
        raise InputError(f"{folder}: its files do not belong together: compress again")
    return from_parts(record, tensors, index, _vectors(record, features, column))


def _vectors(record: Mapping[str, Any], features: Any, column: str | None) -> Vectors | None:
    known = record["features"]
    if features is None and record["rerank"] > 1 and known["paths"]:
        features, column = known["paths"], column or known["column"]
    if features is None:
        return None
    vectors = open_vectors(features, column=column)
    if (vectors.n, vectors.dimension) != (known["n"], known["dimension"]):
        raise InputError(
            f"{vectors.name}: shape ({vectors.n}, {vectors.dimension}); what was compressed has "
            f"({known['n']}, {known['dimension']}): give the same vectors"
        )
    if vectors.direct and known["fingerprint"] not in (None, vectors.fingerprint()):
        raise InputError(
            f"{vectors.name}: not the vectors that were compressed, though as many: give those, or "
            "compress again"
        )
    return vectors


def _read_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): compress again") from None
    for name in ("mean", "components", "scale"):
        if name not in found:
            raise InputError(f"{path} has no tensor {name!r}: compress again")
    return found
