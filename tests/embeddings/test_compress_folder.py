"""The folder of a compression: whole or not there, in nobody's way, and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_vectors import brute_force, low_rank, recall
from safetensors.numpy import load_file, save_file

from lowland.core.errors import InputError
from lowland.embeddings import (
    compress,
    compressing,
    fastest,
    folder,
    load,
)

faiss = pytest.importorskip("faiss")
X = low_rank(1500, 32, 6, noise=0.02) + 0.2
FEW: dict[str, Any] = {"query_count": 200, "quantizers": "float32,float16,sq8,sq4"}


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_lists_and_graphs_are_found_again_as_they_were_set(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "FEWEST", 1000)
    monkeypatch.setattr(fastest, "speed_of", lambda index, *_, **__: index.__class__.__name__)
    monkeypatch.setattr(compressing, "speed_of", lambda *_: 1.0)
    wanted = {"ivf": "IndexIVFScalarQuantizer", "hnsw": "IndexHNSWSQ"}[kind]
    monkeypatch.setattr(compressing, "_faster", lambda new, old: new.speed == wanted)
    found = compress(
        X,
        target="recall@10=0.95",
        prefer="speed",
        quantizers="sq8",
        query_count=200,
        out=tmp_path / "o",
    )
    assert found.index == kind
    size = (tmp_path / "o" / "index.faiss").stat().st_size / len(X)
    assert found.after.bytes == pytest.approx(size, rel=0.04)
    loaded = load(tmp_path / "o")
    np.testing.assert_array_equal(loaded.search(X[:200], 10)[1], found.result.search(X[:200])[1])
    _, ids = loaded.search(X, 11)
    others = [[i for i in row if i != own][:10] for own, row in enumerate(ids)]
    true = brute_force(X, X, 10, "cosine", np.arange(len(X)))
    assert recall(others, true) == pytest.approx(found.recall.value, abs=0.03)


@pytest.mark.parametrize("change", ["written over", "replaced"])
def test_a_file_that_changes_meanwhile(change: str, tmp_path: Path) -> None:
    path, out = tmp_path / "v.npy", tmp_path / "out"
    np.save(path, X)

    def tell(words: str) -> None:
        if not words.startswith("recall and speed"):
            return
        if change == "written over":
            mapped = np.load(path, mmap_mode="r+")
            mapped[:] = mapped[::-1].copy()
            mapped.flush()
        else:
            np.save(tmp_path / "new.npy", X[::-1])
            (tmp_path / "new.npy").replace(path)

    with pytest.raises(
        InputError, match=r"v\.npy changed while it was read: .* nothing is written"
    ):
        compress(path, target="recall@10=0.9", rerank=2, out=out, tell=tell, **FEW)
    assert not out.exists()


def test_the_record_is_plain(tmp_path: Path) -> None:
    found = compress(X, target="recall@10=0.9", out=tmp_path / "out", **FEW)
    record = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert {**found.to_dict(), "provenance": 0} == {**record, "provenance": 0}
    assert record["after"]["index_bytes"] == (tmp_path / "out" / "index.faiss").stat().st_size
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (index.d, index.ntotal) == (32, 1500)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    compress(X, target="recall@10=0.8", out=out, **FEW)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        compress(X, target="recall@10=0.95", out=out, **FEW)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    compress(X, target="recall@10=0.95", out=out, **FEW)
    assert {path.name: path.read_bytes() for path in out.iterdir()} != before


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    for place, message in (("mine", r"holds other things \(thesis.txt\)"), ("f", "is a file")):
        (tmp_path / "f").touch()
        with pytest.raises(InputError, match=message):
            compress(X, out=tmp_path / place, **FEW)


def test_folders_that_cannot_be_replaced_are_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "in"
    (inside / "out").mkdir(parents=True)
    monkeypatch.chdir(inside / "out")
    message = "cannot be replaced as a whole: name a folder in it"
    for here in (".", inside / "out"):
        with pytest.raises(InputError, match=message):
            folder.check_folder(Path(here))
    monkeypatch.chdir(tmp_path)
    folder.check_folder(inside / "out")
    with monkeypatch.context() as patched:
        patched.setattr("os.path.ismount", lambda path: Path(path) == inside / "out")
        with pytest.raises(InputError, match=message):
            folder.check_folder(inside / "out")
    # what is in a folder may be written where the folder itself may not be replaced
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != inside)
    with pytest.raises(InputError, match=r"out: .*in cannot be written"):
        folder.check_folder(inside / "out")


def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    for _ in range(2):
        compress(X, target="recall@10=0.8", out=tmp_path / "out", **FEW)
        assert (tmp_path / "out").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]
        assert load(tmp_path / "real").n == 1500


def without(path: Path, name: str) -> str:
    return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name})


def test_damaged_folders_are_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    compress(X, target="recall@10=0.8", out=out, **FEW)
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none")
    for name, change, message in (
        ("index.faiss", lambda p: p.write_bytes(p.read_bytes()[:1000]), "no whole index of faiss"),
        ("transform.safetensors", lambda p: p.write_bytes(b"x"), "cannot be read"),
        ("transform.safetensors", lambda p: save_file({"mean": X[0]}, p), "no tensor 'components'"),
        ("compression.json", lambda p: p.write_text("{}"), "no record of a compression"),
        ("compression.json", lambda p: p.write_text(without(p, "rerank")), "lacks 'rerank'"),
        (
            "transform.safetensors",
            lambda p: save_file({**load_file(p), "scale": X[0]}, p),
            "do not belong together",
        ),
    ):
        broken = tmp_path / "broken"
        shutil.copytree(out, broken)
        change(broken / name)
        with pytest.raises(InputError, match=message):
            load(broken)
        shutil.rmtree(broken)
    other = compress(X[:500], target="recall@10=0.8", out=tmp_path / "other", **FEW)
    assert other.features["n"] == 500
    shutil.copy(tmp_path / "other" / "index.faiss", out / "index.faiss")
    with pytest.raises(InputError, match="do not belong together"):
        load(out)
