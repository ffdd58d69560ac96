"""A file larger than the memory that is allowed is compressed, and could not have been read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")

ROWS, WIDTH, ALLOWED = 1_200_000, 64, 224
"""307 MB of float32, with 224 MiB to work in."""

LIMITED = """
import resource, sys
import numpy as np
import faiss, torch
from lowland.embeddings import compress
data = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
limit = (data << 10) + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.load(sys.argv[1])
except MemoryError:
    print("too large to be read")
found = compress(sys.argv[1], target="recall@10=0.6", query_count=64, quantizers="sq4",
                 metric="l2", out=sys.argv[1] + ".out")
print(found.quantizer, found.recall.value >= 0.55)
"""


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
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(ALLOWED)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == ["too large to be read", "sq4 True"]
    assert (tmp_path / "large.npy.out" / "index.faiss").stat().st_size < 40 << 20
