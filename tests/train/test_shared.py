"""What a node must have to do runs; here another process stands for another machine."""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.util
import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from lowland.train import Recipe, Tracking
from lowland.train.shared import offered, refusal

Make = Callable[..., Recipe]


def test_a_node_that_shares_the_folder_and_its_locks_may_work(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_bytes(b"")
    recipe = tiny(data=f"parquet:{tmp_path / 'images.parquet'}")
    with offered(tmp_path / "runs", [recipe, tiny()]) as terms:
        assert terms.data == (str(tmp_path / "images.parquet"),)
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(refusal, [terms]) is None
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_a_node_lacks_is_named(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with offered(tmp_path / "runs", [tiny(data="parquet:gone.parquet")]) as terms:
        assert "does not see gone.parquet: put the data where" in (refusal(terms) or "")
        elsewhere = dataclasses.replace(terms, token=tmp_path / "no" / "token")
        assert (refusal(elsewhere) or "").endswith(
            "no (No such file or directory): put --out on a file system that all nodes share"
        )
        other = dataclasses.replace(terms, text="of another folder with that name")
        assert "has another" in (refusal(other) or "")
        find = importlib.util.find_spec
        tracking = Tracking(tracker="tensorboard", place="x")
        here = dataclasses.replace(terms, data=(), loggers=tracking)
        assert refusal(here) is None
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n: None if n == "tensorboard" else find(n)
        )
        assert "tracker tensorboard needs tensorboard" in (refusal(here) or "")


def test_a_file_system_without_locks_is_refused(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS with `local_lock`: a lock of another machine is not seen, so ours succeeds."""
    with offered(tmp_path, [tiny()]) as terms:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        assert "does not see locks on" in (refusal(terms) or "")
        assert "two nodes could write one run" in (refusal(terms) or "")


def test_tokens_of_killed_drivers_are_removed_and_others_stay(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / ".sweep-left").write_text("left")
    with offered(tmp_path, [tiny()]) as first, offered(tmp_path, [tiny()]) as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.token.name, second.token.name}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_the_node_may_not_write_is_refused(tiny: Make, tmp_path: Path) -> None:
    with offered(tmp_path, [tiny()]) as terms:
        terms.token.chmod(0o400)
        assert "cannot write to" in (refusal(terms) or "")
