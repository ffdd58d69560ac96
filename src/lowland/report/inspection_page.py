"""`report.html` of an inspection: one file that opens anywhere, made from its record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from lowland.report import inspection as words
from lowland.report.figures import INK, colour, line_sample
from lowland.report.inspection import Record
from lowland.report.inspection_figures import SECOND, depth_figures, spectrum_figures
from lowland.report.inspection_terminal import definitions as used_definitions
from lowland.report.shell import (
    PAGE,
    card,
    definitions,
    document,
    figure_grid,
    section,
    write_document,
)
from lowland.report.tables import Rows, html_table
from lowland.report.words import seconds


def write_page(folder: Path, record: Record) -> Path:
    """Write the page of an inspection into `folder`; one that is up to date is left alone.

    Raises:
        InputError: it cannot be written.
    """
    return write_document(folder / PAGE, record, lambda stamp: render(record, stamp=stamp))


def render(record: Record, *, stamp: str = "") -> str:
    """The whole page as HTML."""
    depth, spectra = depth_figures(record), spectrum_figures(record)
    sections = (
        _header(record),
        section("Block by block", *_tables(record)),
        section("Whole network", _models(record)) if _models(record) else "",
        section("Along depth", _networks(record), figure_grid(depth)) if depth else "",
        section("Spectra", _blocks(record), figure_grid(spectra, "wide")) if spectra else "",
        section("Definitions", _definitions(record)),
        section("Notes", _notes(record)) if words.notes(record) else "",
        section("Provenance", *_provenance(record)),
    )
    title = "lowland inspect: " + ", ".join(words.titles(record))
    return document(title, "".join(sections), [*depth, *spectra], stamp=stamp)


def _header(record: Record) -> str:
    lines = [
        f"{title}: {words.subject_line(subject)}"
        for title, subject in zip(words.titles(record), record["subjects"], strict=True)
    ]
    lines.append(words.data_line(record))
    if record["preset"] is not None:
        preset = record["preset"]
        lines.append(f"Preset {preset['name']} ({preset['source']}): {preset['words']}")
    meta = "".join(f'<p class="meta">{escape(line)}</p>' for line in lines)
    heading = " and ".join(words.titles(record))
    return f"<header><h1>{escape(heading)}</h1>{meta}</header>"


def _tables(record: Record) -> Iterator[str]:
    names = words.by_block(record)
    if not names:
        yield '<p class="note">No instrument of blocks was asked for.</p>'
        return
    if len(record["subjects"]) == 1:
        yield card(html_table(*_alone(record, names)))
        return
    for name in names:
        yield f"<h3>{escape(name)}</h3>{card(html_table(*_compared(record, name)))}"
    for comparison in record["comparisons"]:
        name = comparison["name"]
        rows = [[b, words.cell(row.get(name))] for b, row in record["between"].items()]
        yield f"<h3>{escape(name)}</h3>{card(html_table(['block', name], rows))}"
    for line in words.only_in(record):
        yield f'<p class="note">{escape(line)}</p>'


def _alone(record: Record, names: list[str]) -> tuple[list[str], Rows]:
    subject = record["subjects"][0]
    sizes = words.widths(subject)
    rows = [
        [
            block,
            *([f"{sizes[block]:,}" if block in sizes else ""] if sizes else []),
            *(words.cell(row.get(name)) for name in names),
        ]
        for block, row in subject["blocks"].items()
    ]
    return ["block", *(["features"] if sizes else []), *names], rows


def _compared(record: Record, name: str) -> tuple[list[str], Rows]:
    a, b = record["subjects"]
    rows = []
    for block in words.common(record):
        one, other = a["blocks"][block].get(name), b["blocks"][block].get(name)
        rows.append([block, words.cell(one), words.cell(other), words.change(one, other)])
    return ["block", *words.titles(record), "change"], rows


def _models(record: Record) -> str:
    several = len(record["subjects"]) > 1
    rows = [
        [
            name,
            *map(words.cell, found),
            *([words.change(*found)] if several else []),
        ]
        for name, found in words.model_rows(record)
    ]
    if not rows:
        return ""
    head = ["", *words.titles(record), *(["change"] if several else [])]
    return card(html_table(head, rows))


def _networks(record: Record) -> str:
    """A legend, where there are two networks."""
    if len(record["subjects"]) == 1:
        return (
            '<p class="note">From the first block to the last; bars: '
            "95% intervals, 1.96 standard errors where the record has no other.</p>"
        )
    inks = (INK, SECOND)
    items = "".join(
        f"<span>{line_sample(inks[place], place)}{escape(title)}</span>"
        for place, title in enumerate(words.titles(record))
    )
    return f'<p class="keys">{items}</p>'


def _blocks(record: Record) -> str:
    """Buttons that show or hide a block's spectrum."""
    blocks = list(dict.fromkeys(b for s in record["subjects"] for b in s["blocks"]))
    short, _ = words.short_names(blocks)
    buttons = (
        f'<button type="button" data-rho="{escape(block)}" aria-pressed="true">'
        f"{line_sample(colour(number, len(blocks)), 0)}{escape(short[block])}</button>"
        for number, block in enumerate(blocks)
    )
    return f'<div class="legend" title="show or hide a block">{"".join(buttons)}</div>'


def _definitions(record: Record) -> str:
    """What every number is, in the words of its record, and where the definition comes from."""
    sources = {i["name"]: i["source"] for i in record["instruments"]}
    rows = [
        (name, f"{text}{f' ({sources[name]})' if sources.get(name) else ''}")
        for name, text in used_definitions(record)
    ]
    rows += [(c["name"], c["words"]) for c in record["comparisons"]]
    several = len(record["subjects"]) > 1
    for title, subject in zip(words.titles(record), record["subjects"], strict=True):
        of = f", {title}" if several else ""
        rows.append((f"features{of}", words.taken(subject)))
        if subject["preprocessing"] is not None:
            rows.append((f"images{of}", subject["preprocessing"]["words"]))
    return f'<div class="card text">{definitions(rows)}</div>'


def _notes(record: Record) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in words.notes(record))
    return f'<div class="card text"><ul>{items}</ul></div>'


def _provenance(record: Record) -> Iterator[str]:
    yield f'<div class="card text">{definitions(_facts(record))}</div>'
    rows = [
        [title, block or "whole network", name, *_how(found)]
        for title, subject in zip(words.titles(record), record["subjects"], strict=True)
        for block, row in [*subject["blocks"].items(), ("", subject["model"])]
        for name, found in row.items()
    ]
    head = ["network", "block", "instrument", "n", "arithmetic", "seconds", "seed"]
    yield f"<details><summary>every record</summary>{card(html_table(head, rows))}</details>"


def _how(found: Record) -> list[str]:
    seed = found.get("seed")
    return [
        f"{found['n']:,}",
        str(found["dtype"]),
        f"{found['seconds']:.2f}",
        "" if seed is None else str(seed),
    ]


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    made, asked = record["provenance"], record["asked"]
    yield "made", str(made["time"])
    commit = made["commit"] or "not from a git checkout"
    yield "lowland", f"{made['lowland'] or ''} {commit}{' (modified)' * bool(made['modified'])}"
    yield "versions", f"torch {made['torch']}, numpy {made['numpy']}, Python {made['python']}"
    yield "hardware", f"{made['cpu']}, {made['cores']} cores; {made['gpu'] or 'no GPU'}"
    yield "wall time", seconds(record["seconds"])
    yield "batches", f"{asked['batch_size']} examples on {record['subjects'][0]['device']}"
    for name, options in asked["options"].items():
        yield f"options of {name}", ", ".join(f"{k}={v}" for k, v in options.items())
    for subject in record["subjects"]:
        yield "network", f"{subject['name']}: {_flat(subject['facts'])}"
    yield "data", f"{record['data']['name']}: {_flat(record['data']['source'])}"
    yield "record", "inspect.json beside this page"


def _flat(value: Any) -> str:
    """Nested facts in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items() if item is not None)
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
