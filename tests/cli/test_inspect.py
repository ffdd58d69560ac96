"""`lowland inspect`: one line and exit code 2 for bad input, whole files or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_networks import array_data, foreign
from rich.cells import cell_len

from lowland import inspection
from lowland.__main__ import main
from lowland.measure import INSTRUMENTS
from lowland.report import inspection_page

FORMAT = ["--constructor", "made_networks:foreign", "--mean", "0.5", "--std", "0.25"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that works, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    torch.save(foreign().state_dict(), tmp_path / "w.pt")
    data = array_data(tmp_path)
    return ["inspect", "w.pt", *FORMAT, "--data", data, "--device", "cpu"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("lowland: error: ")
    return line.removeprefix("lowland: error: ")


@pytest.mark.parametrize("columns", ["60", "200"])
def test_table_page_and_record(
    command: list[str],
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*command, "--what", "rank,active,loss,sharpness"]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= int(columns)
    for word in ("w.pt", "stages.…", "features", "rank", "whole network", "loss: error"):
        assert word in printed
    folder = Path("runs/inspect-w.pt")
    assert sorted(path.name for path in folder.iterdir()) == ["inspect.json", "report.html"]
    record = json.loads((folder / "inspect.json").read_text())
    assert record["subjects"][0]["n"] == 21
    assert f"report: {folder}/report.html" in printed
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == printed
    assert (folder / "report.html").exists()


def test_two_networks(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(foreign(3).state_dict(), "v.pt")
    assert main([command[0], "v.pt", *command[1:], "--out", "both"]) == 0
    printed = capsys.readouterr().out
    assert "change" in printed
    record = json.loads(Path("both/inspect.json").read_text())
    assert [subject["name"] for subject in record["subjects"]] == ["v.pt", "w.pt"]


def test_a_preset(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--preset", "low-rank-paper"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "low-rank-paper is for 10,240 examples of split train; these are 21 of all." in printed
    digits = [*command[: command.index("--data")], "--data", "digits", "--device", "cpu"]
    preset = ["--preset", "low-rank-paper", "--examples", "30", "--size", "8", "--out", "p"]
    assert main([*digits, *preset]) == 0
    record = json.loads(Path("p/inspect.json").read_text())
    assert record["preset"]["name"] == "low-rank-paper"
    found = record["subjects"][0]["blocks"]["stages.0"]["rank"]
    assert (found["center"], found["n"]) == ("example", 30)
    assert record["data"]["split"] == "train"


@pytest.mark.parametrize("words", [["list"], ["anything", "--what", "list"]])
def test_instruments_are_listed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for instrument in INSTRUMENTS.values():
        assert f"{instrument.name} {instrument.words}" in printed


def test_words_of_instruments_stand_below_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["inspect", "list"]) == 0
    starts = {
        len(line) - len(line[max(map(len, INSTRUMENTS)) :].lstrip())
        for line in capsys.readouterr().out.splitlines()
        if line.strip()
    }
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect", "Missing argument 'MODEL"),
        ("inspct x", "unknown command 'inspct': did you mean 'inspect'?"),
        ("inspect x --blcks y", "unknown option '--blcks': did you mean '--blocks'?"),
        ("inspect /no/such", "model /no/such: no such file or folder"),
        ("inspect a b c", "3 models: give one, or two"),
        ("inspect w.pt --what rnk", "unknown instrument 'rnk': did you mean 'rank'?"),
        ("inspect w.pt --preset x", "unknown preset 'x'"),
        ("inspect w.pt --set rank=1", "write INSTRUMENT.OPTION=VALUE"),
        ("inspect w.pt --size 0", "--size must be pixels such as 224, or 224x160, not '0'"),
        ("inspect w.pt --size 3x", "--size must be pixels"),
        ("inspect w.pt --mean a,b", "--mean must be numbers such as 0.5"),
        ("inspect w.pt --std nan", "--std must be numbers"),
        ("inspect w.pt --argument x", "argument 'x': write key=value"),
        ("inspect w.pt --examples x", "Invalid value for '--examples'"),
        ("inspect w.pt", "say what network they are of, by --constructor"),
        ("inspect w.pt --model resnet", "unknown model 'resnet': did you mean 'resnet18'?"),
        ("inspect w.pt --out w.pt/x", "w.pt is a file: choose another folder"),
    ],
)
def test_bad_input_is_one_line(
    command: list[str], arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments.split()
    if "--model" in words:
        words += ["--size", "8"]
        torch.save({"head.weight": torch.zeros(3, 4)}, "w.pt")
    assert message in fails(capsys, *words)
    assert sorted(path.name for path in Path().iterdir()) == ["data.npz", "w.pt"]


@pytest.mark.parametrize("options", [["--blocks", "x*"], ["--data", "npz:none"], ["--tokens", "x"]])
def test_failures_write_nothing(
    command: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, *command, *options)
    assert not Path("runs").exists()


@pytest.mark.parametrize("moment", ["starting", "measuring", "writing"])
def test_an_interrupt_leaves_nothing_half_written(
    moment: str,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    if moment == "measuring":
        monkeypatch.setattr(inspection, "inspect_checkpoints", interrupted)
    elif moment == "starting":
        monkeypatch.setattr(inspection, "make_request", interrupted)
    else:
        monkeypatch.setattr(os, "fsync", interrupted)
    assert main(command) == 130
    assert "interrupted: nothing half-written is left" in capsys.readouterr().err
    assert not [p for p in Path().rglob("*") if p.suffix in (".json", ".html", ".tmp")]


def test_an_earlier_record_stays_when_the_next_one_fails(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command) == 0
    before = Path("runs/inspect-w.pt/inspect.json").read_bytes()
    capsys.readouterr()
    fails(capsys, *command, "--what", "rank,knn-none")
    assert Path("runs/inspect-w.pt/inspect.json").read_bytes() == before
    Path("runs/inspect-w.pt/inspect.json").write_text("{}")
    assert "is no record of lowland: choose another --out" in fails(capsys, *command)
    assert Path("runs/inspect-w.pt/inspect.json").read_text() == "{}"


def test_a_page_that_cannot_be_written(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/report.html").mkdir(parents=True)
    assert "cannot be written: Is a directory" in fails(capsys, *command, "--out", "out")


def test_in_a_process_of_its_own(command: list[str]) -> None:
    """As a user types it: nothing on stderr, no warnings, and the working folder is searched."""
    Path("mine.py").write_text("from made_networks import foreign as net\n")
    words = [w.replace("made_networks:foreign", "mine:net") for w in command]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "lowland", *words],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "rank" in done.stdout


def test_pages_are_made_from_the_record_alone(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    record = inspection.read_record(Path("runs/inspect-w.pt"))
    page = Path("runs/inspect-w.pt/report.html").read_text("utf-8")
    stamp = page.partition('name="lowland-results" content="')[2][:16]
    assert inspection_page.render(record, stamp=stamp) == page
