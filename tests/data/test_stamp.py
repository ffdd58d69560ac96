"""What tells that files are other ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lowland.data.stamp import stamp

CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda root: (root / "a" / "0.png").write_bytes(b"other"),
    "touched": lambda root: os.utime(root / "a" / "0.png", ns=(1, 1)),
    "added": lambda root: (root / "a" / "1.png").touch(),
    "removed": lambda root: (root / "a" / "0.png").unlink(),
    "renamed": lambda root: (root / "a" / "0.png").rename(root / "a" / "2.png"),
    "moved": lambda root: (root / "a").rename(root / "b"),
    "replaced": lambda root: (root / "new").replace(root / "a" / "0.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_folder_shows(change: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for file in ("a/0.png", "new"):
        (tmp_path / file).write_bytes(b"same")
    before = stamp([str(tmp_path)])
    assert stamp([str(tmp_path)]) == before
    assert len(before) == 2
    CHANGES[change](tmp_path)
    assert stamp([str(tmp_path)]) != before


def test_places_that_are_not_there_and_links_to_nothing_are_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("nothing")
    assert stamp(["", str(tmp_path / "none"), str(tmp_path)]) == ()
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    assert stamp(["file"]) == stamp([str(tmp_path / "file")]) != ()


def test_a_folder_is_resolved_once_and_not_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is most of the time that a large folder takes."""
    for i in range(50):
        (tmp_path / f"{i}.png").touch()
    asked: list[Path] = []
    resolve = Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path: asked.append(path) or resolve(path))
    assert len(stamp([str(tmp_path)])) == 50
    assert len(asked) == 1
