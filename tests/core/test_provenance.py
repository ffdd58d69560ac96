from __future__ import annotations

import datetime
import itertools
import json
import subprocess
from pathlib import Path

import torch

from lowland.core import provenance as module
from lowland.core.provenance import provenance, source_hash


def test_it_says_what_where_and_when_in_plain_values() -> None:
    found = provenance()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert found["cores"] >= 1
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(found["time"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(seconds=5)


def package(folder: Path) -> Path:
    for name in ("core/a.py", "core/deep/b.py", "optim/c.py", "report/d.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


def test_the_hash_of_the_source_changes_with_every_file_in_its_parts(tmp_path: Path) -> None:
    copies = itertools.count()

    def hashed(change: str = "", name: str = "core/a.py") -> str:
        folder = package(tmp_path / str(next(copies)))
        if change:
            (folder / name).write_text(change)
        return source_hash(("core", "optim"), folder)

    base = hashed()
    assert hashed() == base
    assert hashed("# core/a.py\n\n") != base
    assert hashed("x = 1\n", "core/deep/b.py") != base
    assert hashed("", "optim/c.py") == base
    assert hashed("new = 1\n", "optim/new.py") != base
    assert hashed("x = 1\n", "report/d.py") == base
    assert hashed("not code", "core/notes.txt") == base
    folder = package(tmp_path / "order")
    assert source_hash(("optim", "core"), folder) == base
    (folder / "core/a.py").rename(folder / "core/z.py")
    source_hash.cache_clear()
    assert source_hash(("optim", "core"), folder) != base


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_repository_that_tracks_the_code(tmp_path: Path) -> None:
    file = tmp_path / "provenance.py"
    file.write_text("code\n")
    unknown = {"commit": None, "modified": None}
    assert module._checkout(file) == unknown
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert module._checkout(file) == unknown  # no commit yet
    git(tmp_path, "rm", "-q", "--cached", ".", "-r")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert module._checkout(file) == unknown  # installed inside their repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert module._checkout(file) == {"commit": commit, "modified": False}
    file.write_text("changed\n")
    assert module._checkout(file) == {"commit": commit, "modified": True}


def test_no_git_is_no_commit(tmp_path: Path) -> None:
    assert module._git(tmp_path / "missing", "status") is None


def test_a_processor_without_a_listing_still_has_a_name(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    assert module._cpu_name(listing)
    listing.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Other\n")
    assert module._cpu_name(listing) == "Some CPU: fast"
