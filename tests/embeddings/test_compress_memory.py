"""Files larger than the memory that is allowed are compressed; too little memory is one line."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lowland.core.errors import InputError
from lowland.embeddings import package

pytest.importorskip("faiss")

ROWS, WIDTH, ALLOWED = 1_200_000, 64, 224
"""293 MiB of float32, with 224 MiB to work in, of which buffers of two libraries take 160."""

ALLOW = """
import resource, sys
import numpy as np
import faiss, torch
from lowland.embeddings import compress
data = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
limit = (data << 10) + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
"""
LIMITED = (
    ALLOW
    + """
try:
    np.load(sys.argv[1])
except MemoryError:
    print("too large to be read")
found = compress(sys.argv[1], target="recall@10=0.6", query_count=64, quantizers="sq4",
                 metric="l2", out=sys.argv[1] + ".out")
print(found.quantizer, found.recall.value >= 0.55)
"""
)
COMMAND = (
    ALLOW
    + """
from lowland.__main__ import main
sys.exit(main(["compress", sys.argv[1], "--query-count", "64", "--metric", "l2"]))
"""
)
FIRST_PRODUCT = (
    ALLOW
    + """
linear = faiss.LinearTransform(256, 256, False)
faiss.copy_array_to_vector(np.eye(256, dtype="f4").ravel(), linear.A)
linear.is_trained = True
linear.apply(np.eye(256, dtype="f4"))
"""
)


def limited(code: str, path: Path, allowed: int) -> subprocess.CompletedProcess[str]:
    """Run code with so many MiB beyond what its libraries take when they are imported."""
    return subprocess.run(
        [sys.executable, "-c", code, str(path), str(allowed)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=path.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, WIDTH))
    draws = np.random.default_rng(0)
    for start in range(0, ROWS, 50_000):
        rows[start : start + 50_000] = draws.standard_normal((50_000, WIDTH), dtype=np.float32)
    rows.flush()
    del rows
    assert path.stat().st_size > ALLOWED << 20
    run = limited(LIMITED, path, ALLOWED)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == ["too large to be read", "sq4 True"]
    assert (tmp_path / "large.npy.out" / "index.faiss").stat().st_size < 40 << 20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.random.default_rng(0).standard_normal((100_000, 64), dtype=np.float32))
    assert limited(FIRST_PRODUCT, path, 100).returncode < 0  # what faiss's OpenBLAS does by itself
    for allowed, words in (
        (10, "less than 32 MiB, which NumPy takes for products"),
        (100, "less than 128 MiB, which faiss takes for products"),
        (190, "memory ran out ("),
    ):
        run = limited(COMMAND, path, allowed)
        assert run.returncode == 2, run.stderr[-2000:]
        (line,) = run.stderr.splitlines()
        assert line.startswith("lowland: error: ")
        assert words in line
    assert [child.name for child in tmp_path.iterdir()] == ["v.npy"]


def test_memory_that_is_refused_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refusing(_: int, size: int, flags: int) -> Any:
        asked.append(size)
        assert flags == mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        if size > 2**25:
            raise OSError(12, "Cannot allocate memory")
        return mmap.mmap(-1, 4096)

    stand_in = SimpleNamespace(
        mmap=refusing, MAP_PRIVATE=mmap.MAP_PRIVATE, MAP_ANONYMOUS=mmap.MAP_ANONYMOUS
    )
    monkeypatch.setattr(package, "mmap", stand_in)
    package.reserve_buffer.__wrapped__("NumPy")
    with pytest.raises(InputError, match="leaves less than 128 MiB, which faiss takes"):
        package.reserve_buffer.__wrapped__("faiss")
    assert asked == [2**25, 2**27]
