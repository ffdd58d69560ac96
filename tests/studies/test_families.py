"""A whole paper: its studies in one go, and one table of verdicts."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from made_study import STUDY, InProcess
from rich.console import Console

from lowland import studies
from lowland.__main__ import main
from lowland.core.errors import InputError
from lowland.report import claims
from lowland.studies.study import Choice, Plan
from lowland.train import Local

UNDER = dataclasses.replace(STUDY, name="made/up/under", title="Under")


def _impossible(choice: Choice) -> Plan:
    raise InputError("its data are not here: give --data")


LOST = dataclasses.replace(STUDY, name="made/up/lost", plan=_impossible)
MADE = {study.name: study for study in (STUDY, UNDER, LOST)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study in it that has run."""
    folder = tmp_path_factory.mktemp("results")
    studies.execute(STUDY, STUDY.choose(), folder / "one", launcher=InProcess())
    return folder


def test_a_family_is_the_study_and_those_under_it() -> None:
    assert [s.name for s in studies.family("made/up", MADE)] == list(MADE)
    assert studies.family("made", MADE)[0].name == "made/up"
    assert [s.name for s in studies.family("made/up/under", MADE)] == ["made/up/under"]
    assert studies.family("made/u", MADE) == []


def test_every_claim_is_a_row_run_or_not(place: Path) -> None:
    table = studies.claims_table("made/up", MADE, [place, place / "missing"])
    verdicts = [(row["study"], row["verdict"], row["setting"]) for row in table["rows"]]
    assert verdicts == [
        ("made/up", "holds", "numbers, default, only"),
        ("made/up/under", "not run", ""),
    ]
    assert table["records"][0]["seeds"] == 3
    json.dumps(table, allow_nan=False)


def test_a_claim_that_no_record_knows_is_a_row_that_was_not_run(place: Path) -> None:
    """A claim that was added after a study had run is not left out of the table."""

    def grown(choice: Choice) -> Plan:
        before = STUDY.plan(choice)
        later = dataclasses.replace(before.claims[0], name="later", sentence="It falls later.")
        return dataclasses.replace(before, claims=(later, *before.claims))

    table = studies.claims_table(
        "made/up", {"made/up": dataclasses.replace(STUDY, plan=grown)}, [place]
    )
    found = [(row["sentence"], row["verdict"], row["setting"]) for row in table["rows"]]
    assert found == [
        ("It falls.", "holds", "numbers, default, only"),
        ("It falls later.", "not run", ""),
    ]


def test_of_two_records_of_the_same_the_later_counts(place: Path, tmp_path: Path) -> None:
    record = json.loads((place / "one" / "results.json").read_text(encoding="utf-8"))
    for name, time, word in (("a", "2030", "cannot tell"), ("b", "2001", "does not hold")):
        record["provenance"]["time"], record["claims"][0]["verdict"] = time, word
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(record), encoding="utf-8")
    record["asked"]["size"] = "smoke"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text(json.dumps(record), encoding="utf-8")
    rows = studies.claims_table("made/up", {"made/up": STUDY}, [place, tmp_path])["rows"]
    assert [row["verdict"] for row in rows] == ["cannot tell"]


def test_other_seeds_are_another_record(place: Path, tmp_path: Path) -> None:
    studies.execute(STUDY, STUDY.choose(seed=7, seeds=3), tmp_path / "two", launcher=InProcess())
    studies.execute(STUDY, STUDY.choose(seed=9, seeds=1), tmp_path / "three", launcher=InProcess())
    table = studies.claims_table("made/up", MADE, [place, tmp_path])
    assert [row["setting"] for row in table["rows"] if row["study"] == "made/up"] == [
        "numbers, default, only",
        "numbers, default, only, seed 9",
        "numbers, default, only, seeds from 7 on",
    ]


def test_the_table_is_printed_and_written(place: Path, tmp_path: Path) -> None:
    table = studies.claims_table("made/up", MADE, [place])
    for width in (60, 140):
        shown = io.StringIO()
        claims.show_claims(table, Console(file=shown, width=width))
        text = " ".join(shown.getvalue().split())
        assert "1 claim: 1 holds; 1 not run" in text
        assert "5.00 [5.00, 5.00], 3 seeds" in text
        assert max(map(len, shown.getvalue().splitlines())) <= width
    marked = claims.write_claims(table, tmp_path / "t.md").read_text(encoding="utf-8")
    assert "| It falls. | Fig. 0 | 5 | numbers, default, only | 5.00 [5.00, 5.00]" in marked
    html = claims.write_claims(table, tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<td>It falls.</td>" in html
    with pytest.raises(InputError, match=r"ends in '.txt'"):
        claims.write_claims(table, tmp_path / "t.txt")
    with pytest.raises(InputError, match="cannot be written"):
        claims.write_claims(table, tmp_path / "t.md" / "u.md")


def test_all_runs_what_can_be_run_and_says_what_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(studies, "STUDIES", MADE)
    monkeypatch.setattr(Local, "launch", lambda self, *given: InProcess().launch(*given))
    out = str(tmp_path / "runs")
    asked = ["study", "made/up", "--all", "--seeds", "2", "--out", out, "--workers", "1"]
    assert main(asked) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "made/up/lost: its data are not here" in text
    assert "2 claims: 2 hold" in text
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "made-up-claims.html",
        "made-up-numbers-default",
        "made-up-under-numbers-default",
    ]
    assert main(["study", "made/up", "--claims", "--out", out]) == 0
    assert "2 claims: 2 hold" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--all", "--data", "digits"], "--data is for one study"),
        (["--all", "--set", "a=1"], "--set is for one study"),
        (["--claims", "--out", "nowhere-at-all"], "nowhere-at-all is not a folder"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    extra: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "low-rank", *extra]) == 2
    assert words in capsys.readouterr().err
