"""IDX files, whole, damaged and foreign."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_images import idx_bytes

from lowland.core.errors import InputError
from lowland.data.idx import read_idx

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = idx_bytes(ARRAY)


@pytest.mark.parametrize("encode", [bytes, gzip.compress])
def test_reads_back_what_was_written(encode, tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(encode(WHOLE))
    array, digest = read_idx(path, dimensions=3)
    assert (array == ARRAY).all()
    assert len(digest) == 64


BAD = {
    "empty": (b"", "is not an IDX file of 3-dimensional bytes: it starts with nothing"),
    "text": (b"<html>404</html>", "it starts with 3c68746d, expected 00000803"),
    "labels": (idx_bytes(np.zeros(5)), "starts with 00000801, expected 00000803"),
    "floats": (bytes([0, 0, 13, 3]) + WHOLE[4:], "starts with 00000d03"),
    "half a header": (WHOLE[:9], "is not an IDX file"),
    "short": (WHOLE[:-1], "header says 24 bytes, 23 follow"),
    "long": (WHOLE + b"\0", "header says 24 bytes, 25 follow"),
    "huge sizes": (WHOLE[:4] + b"\xff" * 12, "is truncated or foreign"),
    "gzip cut": (gzip.compress(WHOLE)[:-9], "is corrupt"),
    "gzip trailer": (gzip.compress(WHOLE)[:-4] + b"\1\2\3\4", "is corrupt"),
    "gzip damaged": (gzip.compress(WHOLE)[:10] + b"\xff" * 20, "is corrupt"),
    "gzip of text": (gzip.compress(b"hello"), "is not an IDX file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_of_input_error(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "fetch the file again" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=40) | st.integers(0, 60).map(lambda n: gzip.compress(WHOLE)[:n]))
def test_any_bytes_give_an_array_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    with contextlib.suppress(InputError):  # any other exception is a failure
        assert read_idx(path, dimensions=3)[0].ndim == 3


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or directory: name the folder"):
        read_idx(tmp_path / "none", dimensions=1)
    with pytest.raises(InputError, match="is a directory"):
        read_idx(tmp_path, dimensions=1)
