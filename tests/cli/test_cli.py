"""The command line: one line and exit code 2 for bad input, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lowland
from lowland import studies
from lowland.__main__ import main

RESULTS: dict[str, Any] = {
    "format": "lowland-study",
    "version": 1,
    "key": "k",
    "study": {"name": "low-rank", "title": "A title", "source": "S", "shows": "ranks"},
    "asked": {
        "size": "smoke",
        "data": "digits",
        "setting": "minimal",
        "method": "sam",
        "rhos": [0.0, 0.1],
        "seeds": [0, 1],
        "overrides": [],
    },
    "rule": {"words": "A rule.", "family": 1},
    "claims": [],
    "panels": [],
    "notes": [],
    "runs": [{"group": "main", "rho": 0.0, "seed": 0, "recipe": {}, "history": {}, "seconds": 1.0}],
    "failures": [],
    "provenance": {
        **dict.fromkeys(("time", "commit", "lowland", "modified", "torch", "numpy", "python"), "x"),
        **dict.fromkeys(("cpu", "cores", "gpu", "platform"), "x"),
        "workers": 1,
        "seconds": 1.0,
    },
}
RESULTS["runs"][0]["name"] = "r"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that bad input gives."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("lowland: error: ")
    return line.removeprefix("lowland: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("stdy", "unknown command 'stdy': did you mean 'study'? known: report, study"),
        ("--versoin", "unknown option '--versoin': did you mean '--version'?"),
        ("study low-rank --sizes smoke", "unknown option '--sizes': did you mean '--size'?"),
        ("study low-rank --seed 3", "unknown option '--seed': did you mean '--seeds'?"),
        ("study low-rank --seeds three", "Invalid value for '--seeds'"),
        ("study low-rank --seeds", "'--seeds'"),
        ("study", "Missing argument"),
        ("report", "Missing argument 'DIR': see `lowland report --help`"),
        ("study low-rank extra", "unexpected extra argument"),
        ("study lowrank", "unknown study 'lowrank': did you mean 'low-rank'?"),
        ("study low-rank --size smok", "unknown size 'smok': did you mean 'smoke'?"),
        ("study low-rank --data digit", "unknown data set 'digit': did you mean 'digits'?"),
        ("study low-rank --data parquet:/no/file", "/no/file"),
        ("study low-rank --method smm", "unknown method 'smm': did you mean 'sam'?"),
        ("study low-rank --set model=preact", "unknown model 'preact'"),
        ("study low-rank --set epoch=3", "unknown setting 'epoch': did you mean 'epochs'?"),
        ("study low-rank --set epochs", "setting 'epochs' has no value: write key=value"),
        ("study low-rank --set epochs=x", "epochs must be a whole number, not 'x'"),
        ("study low-rank --rho 0.1,x", "rho must be numbers such as 0.05,0.1"),
        ("study low-rank --rho=-0.1", "rho must be finite and 0 or more"),
        ("study low-rank --workers 0", "workers must be 1 or more, not 0"),
        ("report /no/such/folder", "/no/such/folder is not a folder"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert message in fails(capsys, *arguments.split())


def test_foreign_folders_are_refused_and_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("{}")
    out = ("--size", "smoke", "--out", str(tmp_path))
    assert "it holds results.json" in fails(capsys, "study", "low-rank", *out)
    assert "is not a result of `lowland study`" in fails(capsys, "report", str(tmp_path))
    file = str(tmp_path / "results.json")
    assert "is a file" in fails(capsys, "study", "low-rank", "--out", file)
    inside = str(tmp_path / "results.json" / "x")
    assert "Not a directory" in fails(capsys, "study", "low-rank", "--out", inside)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_version_help_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lowland {lowland.__version__}\n"
    assert main([]) == 0
    assert "Run published claims again" in capsys.readouterr().out
    assert main(["study", "--help"]) == 0
    assert "--set" in capsys.readouterr().out
    assert main(["study", "list"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    for study in studies.STUDIES.values():
        assert study.name in listed
        assert study.source in listed
        assert study.shows in listed
        assert all(time in listed for time in study.sizes.values())


def test_report_shows_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({**RESULTS, "claims": [CLAIM]}))
    assert main(["report", str(tmp_path)]) == 0
    assert "✓ holds" in capsys.readouterr().out
    page = tmp_path / "report.html"
    written = page.stat().st_mtime_ns
    assert main(["report", str(tmp_path)]) == 0
    assert page.stat().st_mtime_ns == written


CLAIM = {
    "name": "c",
    "sentence": "A sentence.",
    "source": "Fig. 1",
    "published": "p",
    "effect": "e",
    "unit": "",
    "kind": "at least",
    "threshold": 0.1,
    "reason": "r",
    "verdict": "holds",
    "why": "",
    "n": 2,
    "estimate": 0.5,
    "low": 0.4,
    "high": 0.6,
    "effects": {"0": 0.5, "1": 0.5},
    "detail": "",
    "beside": [],
}


def test_what_is_typed_reaches_the_study(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def execute(study: Any, choice: Any, out: Path, **options: Any) -> dict[str, Any]:
        seen.update(study=study.name, choice=choice, out=out, **options)
        return {**RESULTS, "claims": [CLAIM], "failures": seen.get("failures", [])}

    monkeypatch.setattr(studies, "execute", execute)
    line = "study low-rank --size smoke --rho 0.1,0.3 --seeds 4 --set epochs=3 --set width=4"
    more = ("--method", "asam", "--out", str(tmp_path), "--workers", "3", "--data", "digits")
    assert main([*line.split(), *more]) == 0
    assert seen["choice"] == studies.Choice(
        size="smoke",
        data="digits",
        method="asam",
        rhos=(0.1, 0.3),
        seeds=4,
        overrides=("epochs=3", "width=4"),
    )
    assert (seen["study"], seen["out"], seen["workers"]) == ("low-rank", tmp_path, 3)
    assert main(["study", "low-rank"]) == 0
    assert seen["choice"] == studies.Choice()
    assert (seen["out"], seen["workers"]) == (
        Path("runs/low-rank-digits-default"),
        os.cpu_count(),
    )
    seen["failures"] = [{"group": "main", "rho": 0.1, "seed": 0, "error": "gone"}]
    capsys.readouterr()
    assert main(["study", "low-rank"]) == 1
    assert "failed: main, ρ = 0.1, seed 0: gone" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["typer", "rich", "plotly", "pyarrow"])
def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    missing: str,
) -> None:
    for name in list(sys.modules):
        if name == "lowland.cli" or name.startswith(("lowland.report", missing + ".")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    out = ["--size", "smoke", "--out", str(tmp_path / "new")]
    message = fails(capsys, "study", "low-rank", *out)
    assert message == (
        f'this needs {missing}, which is not installed: pip install "lowland[study]"'
    )
    assert not (tmp_path / "new").exists()


def test_other_missing_modules_are_bugs_and_stay_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'lowland.gone'", name="lowland.gone")

    monkeypatch.setattr(studies, "get", broken)
    with pytest.raises(ModuleNotFoundError):
        main(["study", "low-rank"])


def test_an_interrupt_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "execute", interrupted)
    assert main(["study", "low-rank"]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "the same command goes on from here" in line


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lowland", "study", "lowrank"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "lowland: error: unknown study 'lowrank': did you mean 'low-rank'? known: low-rank\n"
    )


def test_a_reader_that_left_is_no_error_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise BrokenPipeError

    monkeypatch.setattr(studies, "execute", gone)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # restored afterwards
    assert main(["study", "low-rank"]) == 1
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({**RESULTS, "claims": [CLAIM] * 500}))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "lowland", "report", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
