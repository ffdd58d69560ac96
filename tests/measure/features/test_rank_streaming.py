"""Streaming features: the same numbers, the same rows in every pass, little memory."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lowland
from lowland.core.errors import InputError
from lowland.measure import active_units, feature_rank
from lowland.measure.features import products as products_module

CENTERS = ["unit", "example", "none"]


def features(n: int, d: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator) @ torch.randn(5, d, generator=generator)
    return (x + 0.2 * torch.randn(n, d, generator=generator)).relu() + offset


class Chunks:
    """A stream that counts how often it is opened and closed."""

    def __init__(self, matrix: torch.Tensor, sizes: list[int]) -> None:
        self.pieces = [piece for piece in matrix.split(sizes) if len(piece)]
        self.passes = 0
        self.open = 0

    def __call__(self):
        self.passes += 1
        self.open += 1
        try:
            yield from self.pieces
        finally:
            self.open -= 1


def ragged(n: int, parts: int, seed: int) -> list[int]:
    cuts = np.random.default_rng(seed).integers(0, n + 1, parts - 1)
    return np.diff([0, *sorted(cuts.tolist()), n]).tolist()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 40),
    parts=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, 1000.0]),
    center=st.sampled_from(CENTERS),
    narrow=st.sampled_from([0, 1024]),
)
def test_streaming_equals_in_memory(n, d, parts, seed, offset, center, narrow) -> None:
    """Also in the passes for wide features, with `NARROW` and `PIECE` made small."""
    x = features(n, d, seed, offset)
    chunks = Chunks(x, ragged(n, parts, seed))
    whole = feature_rank(x, (0.9, 0.99), center)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "NARROW", narrow)
        patch.setattr(products_module, "PIECE", 1)
        record = feature_rank(chunks, (0.9, 0.99), center)
    assert (record.n, record.dimension) == (n, d)
    total = float(whole.spectrum.sum())
    np.testing.assert_allclose(record.spectrum, whole.spectrum, rtol=1e-8, atol=1e-11 * total)
    assert record.ranks == whole.ranks
    assert record.mean_energy == pytest.approx(whole.mean_energy, rel=1e-12, nan_ok=True)
    assert chunks.open == 0


@pytest.mark.parametrize(("n", "d", "passes"), [(50, 20, 1), (50, 50, 1), (20, 50, 1)])
def test_narrow_streams_are_read_once(n, d, passes) -> None:
    chunks = Chunks(features(n, d), [n // 2, n - n // 2])
    feature_rank(chunks)
    assert chunks.passes == passes


@pytest.mark.parametrize(("n", "d", "passes"), [(50, 20, 2), (20, 50, 4), (20, 40, 3)])
def test_number_of_passes_over_wider_streams(n, d, passes, monkeypatch) -> None:
    monkeypatch.setattr(products_module, "NARROW", 0)
    monkeypatch.setattr(products_module, "PIECE", 1)
    chunks = Chunks(features(n, d), [n // 2, n - n // 2])
    feature_rank(chunks)
    assert chunks.passes == passes


def shuffled(x: torch.Tensor):
    return lambda: iter(x[torch.randperm(len(x))].split(7))


def drifting(x: torch.Tensor):
    state = {"pass": 0}

    def chunks():
        state["pass"] += 1
        return iter((x + 0.5 * state["pass"] * torch.randn_like(x)).split(7))

    return chunks


def shrinking(x: torch.Tensor):
    state = {"pass": 0}

    def chunks():
        state["pass"] += 1
        return iter(x[: len(x) - 3 * (state["pass"] - 1)].split(7))

    return chunks


def growing(x: torch.Tensor):
    state = {"pass": 0}

    def chunks():
        state["pass"] += 1
        return iter(x[: 10 + 3 * state["pass"]].split(7))

    return chunks


def narrowing(x: torch.Tensor):
    state = {"pass": 0}

    def chunks():
        state["pass"] += 1
        return iter(x[:, : x.shape[1] - 3 * (state["pass"] - 1)].split(7))

    return chunks


def one_shot(x: torch.Tensor):
    pieces = iter(x.split(7))
    return lambda: pieces


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("broken", [shuffled, drifting, shrinking, growing, narrowing])
def test_other_rows_in_a_second_pass_are_refused(broken, offset, monkeypatch) -> None:
    monkeypatch.setattr(products_module, "NARROW", 0)
    x = features(40, 60, offset=offset)
    with pytest.raises(InputError, match="a second pass gave other rows than the first; read the"):
        feature_rank(broken(x))
    with pytest.raises(InputError, match="without shuffling"):
        active_units(broken(x))


def test_an_iterator_that_is_used_up_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(products_module, "NARROW", 0)
    with pytest.raises(InputError, match="a function that returns a fresh iterator at every call"):
        feature_rank(one_shot(features(40, 60)))
    with pytest.raises(InputError, match="a fresh iterator"):
        active_units(one_shot(features(40, 60)))


def test_kernels_that_vary_from_run_to_run_are_not_refused(monkeypatch) -> None:
    monkeypatch.setattr(products_module, "NARROW", 0)
    x = features(40, 60)
    expected = feature_rank(x).value

    def chunks():
        return iter((x * (1 + 1e-5 * torch.randn_like(x))).split(7))

    assert feature_rank(chunks).value == expected


def test_a_stream_is_closed_at_once_after_an_error() -> None:
    x = features(20, 6)
    x[15] = torch.nan
    chunks = Chunks(x, [10, 10])
    gc.disable()
    try:
        with pytest.raises(InputError) as caught:
            feature_rank(chunks)
        assert chunks.open == 0
        del caught
    finally:
        gc.enable()


def test_a_later_huge_chunk_is_refused_not_wrong() -> None:
    chunks = [torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 1e200]
    with pytest.raises(InputError, match="squares of later examples leave float64; divide all"):
        feature_rank(lambda: chunks)


MEASURE = """
import json, sys, torch
torch.set_num_threads(1)
from lowland.measure import feature_rank

def resident(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(which))

def growth(run):
    '''MiB by which the resident memory of now is exceeded while `run` runs.

    Not by getrusage, whose maximum a process inherits from the one that started it.
    '''
    now = resident("VmRSS")
    run()
    return resident("VmHWM") - now
"""

STREAM = """
def chunks(n, d, step):
    base = torch.randn(d, generator=torch.Generator().manual_seed(0))
    for start in range(0, n, step):
        yield torch.stack([base.roll(7 * i) for i in range(start, start + step)])

def rank(*sizes):
    stream = lambda: chunks(*sizes)
    return feature_rank(torch.cat(list(stream())) if sys.argv[1] == "gathered" else stream)

rank(64, 5000, 8), rank(5000, 64, 8)
print(json.dumps({
    "wide": growth(lambda: rank(64, 500_000, 1)),
    "tall": growth(lambda: rank(320_000, 100, 1000)),
}))
"""

IN_MEMORY = """
wide, tall = torch.ones(64, 500_000), torch.ones(320_000, 100)
print(json.dumps({
    "wide": growth(lambda: feature_rank(wide)),
    "tall": growth(lambda: feature_rank(tall)),
}))
"""

SIZE = 122
"""MiB of each of these feature matrices, in float32."""


def run_script(*arguments: str) -> dict[str, float]:
    """Run in a process of its own, where freed memory goes back to the system at once."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(lowland.__path__[0]).parent),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-c", MEASURE + arguments[0], *arguments[1:]]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
class TestMemory:
    """Resident memory, which sees tensors and arrays alike."""

    def test_streaming_holds_little(self) -> None:
        grown = run_script(STREAM, "streamed")
        assert max(grown.values()) < 0.8 * SIZE

    def test_this_way_of_measuring_sees_what_is_gathered(self) -> None:
        grown = run_script(STREAM, "gathered")
        assert min(grown.values()) > SIZE

    def test_features_in_memory_are_not_copied_whole(self) -> None:
        grown = run_script(IN_MEMORY)
        assert max(grown.values()) < 0.8 * SIZE
