"""Files that are whole or absent, and locks that die with their process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from lowland.core.errors import InputError
from lowland.core.files import locked, read_json, write_atomically, write_json, write_text


def test_written_and_read_again(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "path": tmp_path, "pair": (1, 2), "ρ": float("inf")}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == {
        "a": [1, 2.5, None, True], "path": str(tmp_path), "pair": [1, 2], "ρ": "inf",
    }  # fmt: skip
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(file: BinaryIO) -> None:
        file.write(b"ne")
        if call == "write":
            full()

    if call != "write":
        monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"], "nothing half-written is left"


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1', "not valid JSON"), (b"\x80\x81", "not valid JSON"), (None, "does not exist")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path, "results file")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if content is not None:
        assert path.read_bytes() == content


def test_a_folder_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lowland.core.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"), locked(tmp_path):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        if other.stdout is not None:
            other.stdout.close()
    for _ in range(50):
        try:
            with locked(tmp_path):
                return
        except InputError:
            time.sleep(0.1)
    pytest.fail("the lock outlived its process")
