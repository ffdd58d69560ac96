"""`lowland compress`: one line and exit code 2 for bad input, tables that fit, whole folders."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_vectors import low_rank
from rich.cells import cell_len
from rich.console import Console
from safetensors.numpy import save_file

from lowland import embeddings
from lowland.__main__ import main
from lowland.report import compression

pytest.importorskip("faiss")
QUICK = ["--target", "recall@10=0.9", "--query-count", "100", "--quantizers", "float32,sq8,sq4"]


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", low_rank(800, 24, 5, noise=0.02))
    return "vectors.npy"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("lowland: error: ")
    return line.removeprefix("lowland: error: ")


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_tables_fit(
    vectors: str,
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["compress", vectors, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= int(columns)
    for word in ("recall@10", "bytes per vector", "queries a second", "before", "after", "chosen"):
        assert word in printed
    folder = Path("runs/compress-vectors")
    assert f"written: {folder}" in printed
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["compression.json", "index.faiss", "transform.safetensors"]
    assert embeddings.load(folder).search(np.load(vectors)[:2], 3)[1][:, 0].tolist() == [0, 1]


def test_json_is_the_record(vectors: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", vectors, *QUICK, "--json", "--out", "o", "--metric", "l2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path("o/compression.json").read_text())
    assert printed["metric"] == "l2"


def test_the_tables_have_the_numbers_of_the_record(
    vectors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", vectors, *QUICK, "--out", "o"]) == 0
    printed = capsys.readouterr().out
    record = json.loads(Path("o/compression.json").read_text())
    before, after, recall = record["before"], record["after"], record["recall"]
    rows = [line.split() for line in printed.splitlines() if line.strip()]
    cells = {" ".join(row[:-2]): row[-2:] for row in rows} | {row[0]: row[1:] for row in rows}
    interval = [f"[{recall['low']:.4f},", f"{recall['high']:.4f}]"]
    assert cells["recall@10"] == ["1", f"{recall['value']:.4f}", *interval]
    assert cells["bytes per vector"] == [f"{before['bytes']:.1f}", f"{after['bytes']:.1f}"]
    assert cells["dimensions"] == ["24", str(after["dimensions"])]
    assert cells["index"][2:] == [f"{after['index_bytes'] / 1000:.1f}", "KB"]
    speeds = [f"{side['queries_per_second']:,.0f}" for side in (before, after)]
    assert cells["queries"][2:4] == speeds
    assert f"{before['bytes'] / after['bytes']:.1f} times fewer bytes" in printed
    tried = {(t["quantizer"], str(t["dimensions"])): t for t in record["trials"]}
    listed = [row for row in rows if tuple(row[:2]) in tried]
    assert {row[0] for row in listed} == {t["quantizer"] for t in record["trials"]}
    for row in listed:
        trial = tried[row[0], row[1]]
        assert row[2:4] == [f"{trial['bytes']:.1f}", f"{trial['recall']:.4f}"]
        assert (" ".join(row[4:]) == "short of the target") == (not trial["reaches"])
    (chosen,) = (row for row in listed if row[4:] == ["chosen"])
    assert chosen[:2] == [record["quantizer"], str(record["dimensions"])]


def test_report_shows_a_compression_again(vectors: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", vectors, *QUICK, "--out", "o"]) == 0
    first = capsys.readouterr().out
    assert main(["report", "o"]) == 0
    assert capsys.readouterr().out == first
    Path("o/compression.json").write_text('{"format": "lowland-compression-1"}')
    assert "compression.json lacks 'after': compress again" in fails(capsys, "report", "o")


def test_several_files_and_a_limit_of_bytes(
    vectors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.load(vectors)
    Path("parts").mkdir()
    np.save("parts/a.npy", x[:300])
    np.save("parts/b.npy", x[300:])
    quick = ["--query-count", "100", "--quantizers", "sq8,sq4"]
    limit = ["--target", "recall@10", "--at-most", "7", *quick]
    assert main(["compress", "parts/a.npy", "parts/b.npy", *limit]) == 0
    printed = capsys.readouterr().out
    assert "a.npy and 1 more" in printed
    assert "for the highest recall@10 within 7 bytes" in " ".join(printed.split())
    assert "short of the target" not in printed
    assert embeddings.load("runs/compress-a").n == 800
    assert main(["compress", "parts", *limit, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["after"]["bytes"] <= record["at_most"] == 7
    assert embeddings.read_record(Path("runs/compress-parts"))["recall"] == record["recall"]


def test_help_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["compress", "--help"]) == 0
        printed = capsys.readouterr().out
        assert max(map(cell_len, printed.splitlines())) <= columns
        for option in ("--at-most", "--queries-column", "--rerank", "--json"):
            assert option in printed


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
    ],
)
def test_memory_that_runs_out_is_one_line(
    error: Exception,
    vectors: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lowland.embeddings.compressing.exact_speed", out)
    message = fails(capsys, "compress", vectors, *QUICK)
    assert message.startswith("memory ran out (recall and speed on the other queries): ")
    assert not Path("runs").exists()


def test_quantizers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in embeddings.CODECS)


def test_bad_input(vectors: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("one.npy", np.ones((1, 4), np.float32))
    np.save("labels.npy", np.arange(40).reshape(10, 4))
    np.save("queries.npy", np.ones((9, 3), np.float32))
    Path("v.csv").write_text("1,2\n")
    bad = np.load(vectors)
    bad[7, 3] = np.nan
    np.save("nan.npy", bad)
    save_file({"a": bad, "b": bad}, "two.safetensors")
    cases: list[tuple[list[str], str]] = [
        (["v.csv"], "unknown file type '.csv': known: .npy, .parquet, .safetensors"),
        (["none.npy"], "features none.npy: no such file"),
        (["vectors"], "features vectors: no such file or folder"),
        ([vectors, "--queries-column", "v"], "--queries-column 'v': is of a file of --queries"),
        ([vectors, "--rerank", "80"], "rerank: 80 times 10 are all of 800 vectors: give below 80"),
        ([vectors, "--queries", "none.npy"], "queries none.npy: no such file"),
        ([vectors, "--queries", vectors], "leave --queries out"),
        (["nan.npy"], "nan.npy: row 7 has NaN or infinity: remove or mend it"),
        ([vectors, "--column", "v"], "holds one array: leave --column out"),
        ([vectors, "--target", "recall@10"], "target recall@10 names no share"),
        ([vectors, "--target", "recall@800=0.9"], "k is 800 of 800 vectors: give k below 800"),
        (["two.safetensors", "--column", "c"], "unknown tensor of two.safetensors 'c'"),
        (["."], "features .: a folder of .npy and .safetensors files: name some"),
        ([vectors, "--out", "."], "holds other things"),
        (["one.npy"], "one.npy: 1 vector: give at least 4 to search"),
        (["labels.npy"], "holds int64, which looks like labels or identifiers"),
        ([vectors, "--target", "recall@10=99"], "give a share, recall@10=0.99"),
        ([vectors, "--target", "recall@900=0.9"], "k is 900 of 800 vectors"),
        ([vectors, "--metric", "cosin"], "unknown metric 'cosin': did you mean 'cosine'?"),
        ([vectors, "--queries", "queries.npy"], "queries of 3 dimensions, vectors of 24"),
        ([vectors, "--at-most", "3"], "is not reached at up to 3 bytes: the best is"),
        ([vectors, "--quantizers", "sq5"], "unknown quantizer 'sq5': did you mean"),
        ([vectors, "--rerun", "3"], "unknown option '--rerun'"),
    ]
    for arguments, message in cases:
        assert message in fails(capsys, "compress", *arguments)
    assert not Path("runs").exists()


def test_without_faiss(
    vectors: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    message = fails(capsys, "compress", vectors)
    assert message == 'this needs faiss, which is not installed: pip install "lowland[retrieval]"'


def test_an_interrupt_leaves_nothing(
    vectors: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lowland.embeddings.compressing.exact_speed", stopped)
    assert main(["compress", vectors, *QUICK]) == 130
    assert "interrupted: nothing half-written is left" in capsys.readouterr().err
    assert not Path("runs").exists()


def record(**changes: Any) -> dict[str, Any]:
    side = {"dimensions": 8, "bytes": 32.0, "queries_per_second": 100.0, "index_bytes": 5000}
    recall = {"value": 0.9, "error": 0.01, "low": 0.88, "high": 0.92, "queries": 50}
    return {
        "features": {"name": "a" * 90 + ".npy", "n": 10, "dimension": 8, "dtype": "float32"},
        **{"metric": "l2", "target": "recall@10=0.99", "k": 10, "wanted": 0.99},
        **{"quantizer": "sq8", "dimensions": 8, "index": "ivf", "setting": "9 lists, 2 probed"},
        **{"rerank": 3, "recall": recall, "validation": recall, "before": side},
        **{"after": {**side, "bytes": 40.0}, "threads": 2, "trials": []},
        "queries": {
            **{"test": 50, "validation": 50, "source": "q.npy", "left_out": 3, "copies": 9},
        },
        **changes,
    }


def test_what_a_reader_must_know(capsys: pytest.CaptureFixture[str]) -> None:
    compression.show(record(), Path("o"), Console(width=60))
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 60
    words = " ".join(printed.split())
    assert "ivf (9 lists, 2 probed)" in words
    assert "more bytes" in words
    assert "The first 30 are put in order by the vectors themselves" in words
    assert "3 queries are left out" in words
    assert "9 of the queries that were given are copies of vectors" in words
    assert "missed by more than chance" in words
