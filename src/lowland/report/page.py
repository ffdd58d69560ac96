"""`report.html`: one file that opens anywhere, offline, made from a record of results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lowland.report import words
from lowland.report.arms import arm_table
from lowland.report.cost import cost_figures, sweep_figures
from lowland.report.drawings import drawings, sheet
from lowland.report.figures import curves, finals, line_sample, palette
from lowland.report.series import rhos
from lowland.report.shell import (
    PAGE,
    card,
    definitions,
    document,
    figure_grid,
    section,
    write_document,
)
from lowland.report.strip import strip
from lowland.report.tables import by_rho, by_run, facts, html_table


def write_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write the report of `results` into `folder`; one that is up to date is left alone.

    Raises:
        InputError: it cannot be written.
    """
    return write_document(folder / PAGE, results, lambda stamp: render(results, stamp=stamp))


def render(results: Mapping[str, Any], *, stamp: str = "") -> str:
    """The whole page as HTML."""
    over_time, at_the_end = curves(results), finals(results)
    compared = results.get("comparison") is not None
    cost = cost_figures(results) if compared else []
    sweeps = sweep_figures(results) if compared else []
    own = drawings(results)
    sections = (
        _header(results),
        _claims(results["claims"]),
        *(section(table["title"], _sheet(table)) for table in results.get("tables", ())),
        section("Figures", figure_grid(own, "half")) if own else "",
        section("Accuracy against cost", figure_grid(cost, "wide"), _cost_note()) if cost else "",
        section("All arms", card(html_table(*arm_table(results)), "dense")) if compared else "",
        section("Sweeps", figure_grid(sweeps, "half")) if sweeps else "",
        section("Over training", _legend(results), figure_grid(over_time), _curve_note(results))
        if over_time
        else "",
        section("At the end, against ρ", figure_grid(at_the_end), _final_note(results))
        if at_the_end
        else "",
        section("Numbers", card(html_table(*by_rho(results)))) if _by_rho(results) else "",
        section("How to read this", _notes(results)),
        section("Provenance", _provenance(results)),
    )
    title = f"{results['study']['name']}: {results['study']['title']}"
    drawn = (*cost, *sweeps, *own, *over_time, *at_the_end)
    return document(title, "".join(sections), drawn, stamp=stamp)


def _by_rho(results: Mapping[str, Any]) -> bool:
    """Whether means by ρ say something: a study with arms has a table of them instead."""
    return results.get("comparison") is None and bool(results["panels"])


def _sheet(table: Mapping[str, Any]) -> str:
    note = f'<p class="note">{escape(table["note"])}</p>' if table["note"] else ""
    return card(html_table(*sheet(table)), "dense") + note


def _header(results: Mapping[str, Any]) -> str:
    study, asked = results["study"], results["asked"]
    what = (
        f"Study {study['name']}, {asked['size']} size, {asked['setting']} setting, on "
        f"{asked['data']}: {words.seeds(len(asked['seeds']))}, {_extent(results)}"
    )
    return (
        f'<header><h1>{escape(study["title"])}</h1><p class="meta">{escape(study["source"])}</p>'
        f'<p class="meta">{escape(what)}</p>'
        f'<p class="summary">{escape(words.summary(results["claims"]))}</p></header>'
    )


def _extent(results: Mapping[str, Any]) -> str:
    asked, compared = results["asked"], results.get("comparison")
    if compared is not None:
        return f"{len(compared['arms'])} arms"
    return f"ρ from {min(asked['rhos']):g} to {max(asked['rhos']):g}, {asked['method']}"


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    return section("Verdicts", f'<ul class="claims">{"".join(map(_claim, claims))}</ul>')


def _claim(claim: Mapping[str, Any]) -> str:
    word = claim["verdict"]
    chip = f'<span class="chip {word.replace(" ", "-")}">{words.VERDICTS[word]} {word}</span>'
    needs = f"needs {words.threshold(claim)}"
    return (
        f'<li class="card claim">{chip}<div><p class="sentence">{escape(claim["sentence"])}</p>'
        f'<p class="numbers">{escape(words.effect(claim))} '
        f'<span class="note">({escape(needs)})</span></p></div>'
        f'<div class="side">{strip(claim)}</div>'
        f"<details><summary>what was published, what was measured</summary>{_details(claim)}"
        "</details></li>"
    )


def _details(claim: Mapping[str, Any]) -> str:
    rows = [
        ("published", f"{claim['published']} ({claim['source']})"),
        ("effect", claim["effect"]),
        ("threshold", f"{words.threshold(claim)}: {claim['reason']}"),
        ("found", claim["detail"]),
        ("by seed", _by_seed(claim)),
        *((f"beside: {b['label']}", _beside(b, claim["unit"])) for b in claim["beside"]),
    ]
    return definitions((name, text) for name, text in rows if text)


def _by_seed(claim: Mapping[str, Any]) -> str:
    if claim["n"] < 2:
        return ""
    return ", ".join(words.amount(e, claim["unit"]) for e in claim["effects"].values())


def _beside(other: Mapping[str, Any], unit: str) -> str:
    if other["estimate"] is None:
        return "no interval"
    interval = words.span(other["low"], other["high"], unit)
    return f"{words.amount(other['estimate'], unit)} {interval}, {words.seeds(other['n'])}"


def _legend(results: Mapping[str, Any]) -> str:
    buttons = (
        f'<button type="button" data-rho="{rho:g}" aria-pressed="true">'
        f"{line_sample(colour, index)}{words.radius(rho)}</button>"
        for index, (rho, colour) in enumerate(palette(rhos(results["runs"])).items())
    )
    return f'<div class="legend" title="show or hide a radius">{"".join(buttons)}</div>'


def _cost_note() -> str:
    return (
        '<p class="note">Filled: equal epochs. Open: equal compute, joined to the same arm at '
        "equal epochs; arms of two passes have one mark for both. Named: plain training, SAM, and "
        "what no other arm is at once cheaper and better than. Bars: 95% t intervals over seeds, "
        "not corrected.</p>"
    )


def _curve_note(results: Mapping[str, Any]) -> str:
    n = len(results["asked"]["seeds"])
    text = (
        f"Means over {words.seeds(n)} with 95% t intervals at each evaluation (not corrected), "
        "unless a figure says median."
        if n > 1
        else "One seed: curves without intervals, which are no result."
    )
    return f'<p class="note">{text}</p>'


def _final_note(results: Mapping[str, Any]) -> str:
    return (
        '<p class="note">Grey: every seed, joined. Black: mean with 95% t interval (not corrected; '
        "the verdicts above compare seed by seed, which is sharper).</p>"
    )


def _notes(results: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    rule = escape(results["rule"]["words"])
    return f'<div class="card text"><p>{rule}</p><ul>{items}</ul></div>'


def _provenance(results: Mapping[str, Any]) -> str:
    failed = "".join(
        f"<p>failed: {escape(f['group'])}, {words.radius(f['rho'])}, seed {f['seed']}: "
        f"{escape(f['error'])}</p>"
        for f in results["failures"]
    )
    runs = f"<details><summary>every run</summary>{card(html_table(*by_run(results)))}</details>"
    return f'<div class="card text">{definitions(facts(results))}{failed}</div>{runs}'
