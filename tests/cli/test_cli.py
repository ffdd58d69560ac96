"""The command line: one line and exit code 2 for bad input, never a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import lowland
from lowland import studies
from lowland.__main__ import main
from lowland.optim import METHODS
from lowland.studies.runner import Status
from lowland.train import Local, RayCluster, Tracking

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
        (
            "stdy",
            "unknown command 'stdy': did you mean 'study'? known: compress, inspect, methods, "
            "report, study",
        ),
        ("--versoin", "unknown option '--versoin': did you mean '--version'?"),
        ("study low-rank --sizes smoke", "unknown option '--sizes': did you mean '--size'?"),
        ("study low-rank --seedz 3", "unknown option '--seedz': did you mean '--seed'?"),
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
        ("study low-rank --log tensorbord", "unknown tracker 'tensorbord': did you mean 'tensor"),
        ("study low-rank --log csv:", "names no folder: write csv or csv:DIR"),
        ("study low-rank --log csv --log-every 0", "log every must be 1 or more, not 0"),
        ("study low-rank --launcher rya", "unknown launcher 'rya': did you mean 'ray'?"),
        ("study low-rank --address auto", "--address is for --launcher ray: add that, or leave"),
        ("study low-rank --gpus-per-run 1", "--gpus-per-run is for --launcher ray"),
        ("study low-rank --launcher ray --cpus-per-run 0", "cpus per run must be above 0, not 0"),
        ("study low-rank --launcher ray --retries -1", "retries must be 0 or more, not -1"),
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


@pytest.mark.parametrize("columns", ["60", "140"])
def test_methods(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= int(columns)
    words = " ".join(printed.split())
    for method in METHODS.values():
        assert method.name in words
        assert method.source in words


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
    assert (seen["study"], seen["out"]) == ("low-rank", tmp_path)
    assert (seen["launcher"], seen["loggers"]) == (Local(workers=3), None)
    assert main(["study", "low-rank"]) == 0
    assert seen["choice"] == studies.Choice()
    assert main(["study", "methods", "--method", "asam,looksam"]) == 0
    assert seen["choice"] == studies.Choice(method="asam,looksam", setting="standard")
    assert seen["out"] == Path("runs/methods-digits-default")
    assert main(["study", "methods"]) == 0
    assert seen["choice"] == studies.Choice(method="all", setting="standard")
    assert main(["study", "low-rank"]) == 0
    assert (seen["out"], seen["launcher"]) == (
        Path("runs/low-rank-digits-default"),
        Local(workers=os.cpu_count() or 1),
    )
    line = "study low-rank --launcher ray --address auto --cpus-per-run 2 --gpus-per-run 0.5"
    assert main([*line.split(), "--retries", "7", "--workers", "4"]) == 0
    assert seen["launcher"] == RayCluster(
        address="auto", cpus_per_run=2, gpus_per_run=0.5, retries=7, workers=4
    )
    monkeypatch.chdir(tmp_path)
    assert main(["study", "low-rank", "--launcher", "ray", "--log", "csv"]) == 0
    assert seen["launcher"] == RayCluster()
    place = tmp_path / "runs" / "low-rank-digits-default" / "logs"
    assert seen["loggers"] == Tracking(tracker="csv", place=str(place), project="lowland-low-rank")
    assert seen["log_every"] == 10
    assert main(["study", "low-rank", "--log", "csv:there", "--log-every", "3"]) == 0
    assert seen["loggers"].place == str(tmp_path / "there")
    assert seen["log_every"] == 3
    seen["failures"] = [{"group": "main", "rho": 0.1, "seed": 0, "error": "gone"}]
    capsys.readouterr()
    assert main(["study", "low-rank"]) == 1
    assert "failed: main, ρ = 0.1, seed 0: gone" in capsys.readouterr().out


def test_notes_are_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: Any, tell: Any, **__: Any) -> dict[str, Any]:
        tell(Status(done=0, total=2, share=0.5, note="a worker died [again]; retry 1 of 3"))
        return {**RESULTS, "claims": [CLAIM]}

    monkeypatch.setattr(studies, "execute", execute)
    assert main(["study", "low-rank"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "a worker died [again]; retry 1 of 3",
        "0 of 2 runs, 50% of the work",
    ]


@pytest.mark.parametrize("launcher", ["ray", "local"])
def test_what_tracking_or_ray_need_is_missed_before_anything_is_made(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    launcher: str,
) -> None:
    find = importlib.util.find_spec
    gone = {"ray": "ray", "local": "tensorboard"}[launcher]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == gone else find(name)
    )
    out = ["--out", str(tmp_path / "new"), "--launcher", launcher]
    log = ["--log", "tensorboard"] if launcher == "local" else []
    message = fails(capsys, "study", "low-rank", *out, *log)
    assert f"needs {gone}: pip install" in message
    assert not (tmp_path / "new").exists()


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
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "lowland: error: unknown study 'lowrank': did you mean 'low-rank'? known: "
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
