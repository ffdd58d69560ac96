"""From the names of one or two networks to the record of what was found on them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_json
from lowland.data import Examples, open_examples
from lowland.data.examples import in_turn
from lowland.inspection.comparisons import COMPARISONS, compare_features
from lowland.inspection.load import load_subject
from lowland.inspection.measuring import Tell, asks, chosen_device, measure, prepare
from lowland.inspection.record import FORMAT, VERSION, make_record
from lowland.inspection.request import Request
from lowland.inspection.subject import How, Shape, Subject

RECORD = "inspect.json"


def inspect_checkpoints(
    names: Sequence[str],
    request: Request,
    *,
    data: str | None = None,
    column: str | None = None,
    how: How | None = None,
    tell: Tell = lambda words: None,
) -> dict[str, Any]:
    """Measure one network, or two side by side, and record everything.

    Two networks see the same examples, each through its own preprocessing.

    Args:
        names: one or two, as for `load_subject`.
        request: what is measured.
        data: as for `lowland.data.open_examples`; None for what the first network was trained on.
        column: of a Parquet file.
        how: what is said about the networks; for both.
        tell: called with what is being done.

    Returns:
        The record, as strict JSON values.

    Raises:
        InputError: something that was given cannot be used.
    """
    if not 1 <= len(names) <= 2:
        raise InputError(f"{len(names)} models: give one, or two to compare side by side")
    start = time.perf_counter()
    opened = _Opened(data, column, request)
    how = dataclasses.replace(how or How(), device=chosen_device(request.device))
    if data is not None and how.shape is None:
        how = _shaped(how, opened)
    subjects = []
    for name in names:
        tell(f"loading {name.rstrip('/').rpartition('/')[2]}")
        subjects.append(load_subject(name, how))
    tell("reading the data")
    examples = _ordered(opened.by(subjects), request.order).first(request.examples)
    ready = [prepare(subject, examples, request, tell) for subject in subjects]
    findings = [measure(one, request, tell) for one in ready]
    between = {}
    if len(ready) == 2 and COMPARISONS and asks(request, ("features", "labelled features")):
        tell("comparing features")
        between = compare_features(*ready)
    return make_record(request, findings, between, time.perf_counter() - start)


def _ordered(examples: Examples, order: str) -> Examples:
    if order == "file":
        return examples
    if examples.labels is None:
        raise InputError(f"--order classes needs labels, {examples.name} has none")
    return examples.ordered(in_turn(examples.labels), "classes in turn")


class _Opened:
    """The examples, opened when they are first needed: some networks are built to fit them."""

    def __init__(self, data: str | None, column: str | None, request: Request) -> None:
        self._data, self._column, self._request = data, column, request
        self._kept: dict[str, Examples] = {}

    def of_kind(self, kind: str) -> Examples:
        """Those of the data that was named."""
        assert self._data is not None
        name, column = self._data, self._column
        if kind not in self._kept:
            self._kept[kind] = self._split(
                lambda split: open_examples(name, split=split, column=column, kind=kind)
            )
        return self._kept[kind]

    def by(self, subjects: Sequence[Subject]) -> Examples:
        """The examples for these networks."""
        kinds = {subject.reads for subject in subjects}
        if len(kinds) > 1:
            raise InputError("one network reads images, the other texts: compare two of a kind")
        if self._data is not None:
            return self.of_kind(kinds.pop())
        own = next((subject.data for subject in subjects if subject.data is not None), None)
        if own is None:
            raise InputError(
                f"nothing says what {subjects[0].name} was trained on: give --data, such as "
                "parquet:FILE or imagefolder:FOLDER"
            )
        return self._split(own)

    def _split(self, opening: Callable[[str | None], Examples]) -> Examples:
        """The split that was asked for; a preset's only where the source has splits."""
        asked, preset = self._request.split, self._request.preset
        found = opening(asked)
        if asked is None and preset is not None and found.split not in ("all", preset.split):
            return opening(preset.split)
        return found


def _shaped(how: How, opened: _Opened) -> How:
    def shape() -> Shape:
        channels, height, width = opened.of_kind("images").read(0).shape
        return (channels, height, width)

    return dataclasses.replace(how, shape=shape)


def write_record(folder: Path, record: dict[str, Any]) -> Path:
    """Write ``inspect.json`` into `folder`, which is made if it is not there.

    Raises:
        InputError: it cannot be written.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written or holds another thing, before the work is done.

    Raises:
        InputError: so.
    """
    if (folder / RECORD).exists():
        found = read_json(folder / RECORD, "record")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{folder / RECORD} is no record of lowland: choose another --out")
        return
    if folder.is_dir() and any((folder / name).exists() for name in ("results.json", "run.json")):
        raise InputError(f"{folder} is the folder of a study or run: choose another --out")
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"--out {folder}: {place} is a file: choose another folder")
    if not os.access(place, os.W_OK):
        raise InputError(f"--out {folder}: {place} cannot be written: choose another folder")


def read_record(folder: Path) -> dict[str, Any]:
    """``inspect.json`` of a folder, checked to be ours.

    Raises:
        InputError: it is missing, damaged, foreign or of another version.
    """
    path = folder / RECORD
    record = read_json(path, "record")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is no record of `lowland inspect`")
    if record.get("version") != VERSION:
        raise InputError(f"{path} has format version {record.get('version')}, this is {VERSION}")
    return record
