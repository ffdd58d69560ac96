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


def test_quantizers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in embeddings.CODECS)


def test_bad_input(vectors: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("one.npy", np.ones((1, 4), np.float32))
    np.save("labels.npy", np.arange(40).reshape(10, 4))
    np.save("queries.npy", np.ones((9, 3), np.float32))
    cases: list[tuple[list[str], str]] = [
        (["v.csv"], "unknown file type '.csv': known: .npy, .parquet, .safetensors"),
        (["none.npy"], "features none.npy: no such file"),
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
        "queries": {"test": 50, "validation": 50, "source": "q.npy", "left_out": 3},
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
    assert "missed by more than chance" in words
