"""Bounds on the rank from a sketch: never wrong, and often tight."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rank_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features import bounds as bounds_module
from lowland.measure.features.bounds import rank_bounds
from lowland.measure.features.rank import feature_rank, threshold_rank
from lowland.measure.features.sketch import FrequentDirections, largest_outside, project
from lowland.measure.features.source import open_features

CENTERS = ["unit", "example", "none"]
SHARES = (0.2, 0.5, 0.9, 0.99, 0.9999)
KINDS = ["power", "exponential", "flat", "steps", "low rank", "one large", "rising", "orthogonal"]


def matrix(kind: str, n: int, d: int, seed: int) -> torch.Tensor:
    """Random and adversarial examples: among them, rows that come in the worst order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    i = torch.arange(1, d + 1, dtype=torch.float64)
    if kind == "power":
        return x * i**-1.0
    if kind == "exponential":
        return x * torch.exp(-i / 3)
    if kind == "steps":
        return x * torch.where(i <= d // 3, 1.0, 0.03)
    if kind == "low rank":
        return x[:, :3] @ torch.randn(min(3, d), d, generator=generator, dtype=torch.float64)
    if kind == "one large":
        x[-1] *= 1e3
    if kind == "rising":  # what is important comes last
        x *= torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]
    if (
        kind == "orthogonal"
    ):  # each row a new direction, so that every sketch misses as much as can be
        return torch.eye(n, d, dtype=torch.float64) * torch.linspace(1, 2, n)[:, None]
    return x


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 50),
    d=st.integers(1, 50),
    seed=st.integers(0, 10**6),
    center=st.sampled_from(CENTERS),
    size=st.sampled_from([2, 3, 8, 20, 64]),
    passes=st.sampled_from([1, 2, 3, 4, "random"]),
    offset=st.sampled_from([0.0, 5.0]),
)
def test_the_rank_is_never_outside(kind, n, d, seed, center, size, passes, offset) -> None:
    x = matrix(kind, n, d, seed) + offset
    how = {"sketch": "random", "seed": seed} if passes == "random" else {"passes": passes}
    energy = rank_oracle.energies(x.numpy(), center)
    record = rank_bounds(x, SHARES, center, size=size, **how)
    if energy.sum() <= 1e-24 * float(x.square().sum()):
        assert set(record.bounds.values()) == {(0, 0)}
        return
    for share, (low, high) in record.bounds.items():
        exact = {threshold_rank(energy, share, noise=0.0, slack=slack) for slack in (1e-12, -1e-12)}
        assert any(low <= rank <= high for rank in exact)
        assert low >= 1
        assert high <= min(n, d)
    assert record.low <= record.value <= record.high
    assert record.converged is all(low == high for low, high in record.bounds.values())


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(2, 30),
    d=st.integers(2, 40),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2, 5, 12]),
    q=st.integers(1, 12),
    basis=st.sampled_from(["random", "outside", "worst", "best"]),
)
def test_every_sum_is_within_bounds_on_any_subspace(kind, n, d, seed, size, q, basis) -> None:
    """Bounds may rest on no luck: also on subspaces that hold little of the energy, or none."""
    x = matrix(kind, n, d, seed)
    opened = open_features(x)
    sketch = FrequentDirections(size=size, center="none").read(opened)
    right = torch.linalg.svd(x, full_matrices=True)[2].T  # best first, then what x does not reach
    chosen = {
        "random": torch.linalg.qr(torch.randn(d, min(q, d), dtype=torch.float64))[0],
        "outside": right[:, -min(q, d) :],
        "worst": right[:, max(min(n, d) - q, 0) : min(n, d)],
        "best": right[:, :q],
    }[basis]
    evidence = bounds_module._Evidence(sketch, 0)
    evidence.start(bounds_module.energies_of(sketch.rows @ sketch.rows.T), float(sketch.missed))
    rest = torch.linalg.qr(torch.cat([chosen, torch.eye(d, dtype=torch.float64)], 1))[0]
    rest = rest[:, chosen.shape[1] :]
    largest = float(torch.linalg.matrix_norm(x @ rest, 2)) ** 2 if rest.numel() else 0.0
    slack = 1e-12 * float(sketch.total)
    assert sketch.outside(chosen) >= largest - slack
    assert largest_outside(opened, sketch, chosen, seed) >= largest - slack
    sums = np.cumsum(rank_oracle.energies(x.numpy(), "none"))
    for _ in range(2):  # before and after the subspace was measured
        assert (evidence.lower <= sums * (1 + 1e-12)).all()
        assert (evidence.upper >= sums * (1 - 1e-12)).all()
        evidence.add(project(opened, sketch, chosen), sketch.outside(chosen))


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [3, 30, 7], [39, 1]])
@pytest.mark.parametrize("center", CENTERS)
def test_streams_in_ragged_chunks(sizes, center) -> None:
    x = matrix("exponential", 40, 60, 0).float() + 1
    exact = feature_rank(x, SHARES, center).ranks
    record = rank_bounds(lambda: iter(x.split(sizes)), SHARES, center, size=24)
    assert all(record.bounds[t][0] <= exact[t] <= record.bounds[t][1] for t in SHARES)
    assert record.mean_energy == pytest.approx(feature_rank(x).mean_energy)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("passes", [1, 2, 3, "random"])
def test_what_fits_into_the_sketch_is_exact(center, passes) -> None:
    for x in (matrix("power", 30, 50, 0) + 1, matrix("low rank", 200, 50, 1)):
        how = {"sketch": "random"} if passes == "random" else {"passes": passes}
        record = rank_bounds(x, (0.5, 0.9, 0.99), center, size=64, **how)
        assert record.converged
        ranks = feature_rank(x, (0.5, 0.9, 0.99), center).ranks
        assert {t: b[0] for t, b in record.bounds.items()} == ranks


@pytest.mark.parametrize("center", CENTERS)
def test_decaying_spectra_are_settled(center) -> None:
    """λ ∝ exp(-i/10) in 400 directions: rank 45 at 99%, by a sketch of four times as many rows."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(400, 400, generator=generator))[0]
    x = torch.randn(2000, 400, generator=generator) * torch.exp(-torch.arange(400) / 20) @ turn
    exact = feature_rank(x, 0.99, center).value
    record = rank_bounds(x, 0.99, center, size=4 * exact)
    assert record.converged
    assert record.low == record.value == exact
    rough = rank_bounds(x, 0.99, center, size=2 * exact, passes=3)
    assert rough.high - rough.low <= 3
    for seed in range(3):
        random = rank_bounds(x, 0.99, center, size=2 * exact, sketch="random", seed=seed)
        assert (random.low, random.high, random.seed) == (exact, exact, seed)


def test_more_passes_are_no_worse() -> None:
    x = matrix("power", 300, 100, 0)
    widths = []
    for passes in (1, 2, 3, 4):
        found = rank_bounds(x, 0.95, size=32, passes=passes)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("center", ["unit", "none"])
def test_the_sketch_misses_no_direction_by_more_than_it_says(kind, center) -> None:
    """0 ≼ AᵀA - BᵀB ≼ missed·I, and missed ≤ ‖A - A_k‖²/(size/2 - k)."""
    x = matrix(kind, 90, 40, 3) + (3 if center == "unit" else 0)
    sketch = FrequentDirections(size=16, center=center).read(open_features(lambda: x.split(11)))
    a = torch.from_numpy(rank_oracle.centred(x.numpy(), center))
    gap = torch.linalg.eigvalsh(a.T @ a - sketch.rows.T @ sketch.rows)
    scale = float((a**2).sum())
    assert float(gap[0]) >= -1e-12 * scale
    assert float(gap[-1]) <= float(sketch.missed) + 1e-12 * scale
    energy = rank_oracle.energies(x.numpy(), center)
    best = min(energy[k:].sum() / (8 - k) for k in range(8))
    assert float(sketch.missed) <= best + 1e-12 * scale
    assert float(sketch.total) == pytest.approx(scale)


def test_the_bounds_are_not_vacuous_by_design() -> None:
    """A test that never fails proves nothing: a missed energy set to zero makes it fail."""
    wrong = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bounds_module._Evidence,
            "_above",
            lambda self, found, trade, most, rest: np.cumsum(
                np.append(
                    bounds_module.energies_of(found.inside),
                    np.zeros(max(self.most - len(found.inside), 0)),
                )[: self.most]
            ),
        )
        for seed in range(20):
            x = matrix("flat", 50, 40, seed)
            low = rank_bounds(x, 0.5, "none", size=8).low
            wrong += low > feature_rank(x, 0.5, "none").value
    assert wrong > 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.uint8])
@pytest.mark.parametrize("sketch", ["deterministic", "random"])
def test_other_types(dtype, sketch) -> None:
    x = (matrix("power", 40, 30, 0).abs() * 30).to(dtype)
    exact = feature_rank(x, 0.9).value
    record = rank_bounds(x, 0.9, size=20, sketch=sketch)
    assert record.low <= exact <= record.high


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e250])
@pytest.mark.parametrize("sketch", ["deterministic", "random"])
def test_scale_does_not_matter(scale, sketch) -> None:
    x = matrix("power", 40, 30, 0)
    plain, scaled = (rank_bounds(y, (0.5, 0.9), size=24, sketch=sketch) for y in (x, x * scale))
    assert scaled.bounds == plain.bounds


def test_float32_features_whose_squares_leave_float32() -> None:
    x = matrix("power", 40, 30, 0).float()
    for scale in (1e-30, 1e36):
        record = rank_bounds(x * scale, 0.9, size=24, sketch="random")
        assert record.low <= feature_rank(x, 0.9).value <= record.high


@pytest.mark.parametrize("center", CENTERS)
def test_nothing_to_measure(center) -> None:
    assert rank_bounds(torch.zeros(5, 3), center=center).bounds == {0.99: (0, 0)}
    assert rank_bounds(torch.zeros(5, 3), center=center, sketch="random").converged
    if center == "unit":
        assert rank_bounds(torch.full((50, 3), 0.1), size=4).bounds == {0.99: (0, 0)}
        assert rank_bounds(torch.ones(1, 3)).converged


def test_the_record() -> None:
    record = rank_bounds(matrix("power", 60, 50, 0).float(), (0.9, 0.5), size=12, passes=3)
    assert (record.n, record.dimension, record.size, record.passes) == (60, 50, 12, 3)
    assert record.bounds[0.9] == (record.low, record.high)
    assert 0 < record.missed < record.outside < 1
    assert json.loads(json.dumps(record.to_dict()))["bounds"]["0.9"] == [record.low, record.high]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 1.0}, "variance: 1.0 is decided by rounding noise; give at most"),
        ({"variance": 0}, "variance: 0 is not a share"),
        ({"center": "units"}, "unknown center 'units'"),
        ({"size": 1}, "size=1, passes=None: give at least 2 rows and 1 pass"),
        ({"passes": 0}, "size=512, passes=0"),
        ({"passes": 2, "sketch": "random"}, "passes: the random sketch takes its own number"),
        ({"sketch": "randomized"}, "unknown sketch 'randomized': did you mean 'random'"),
    ],
)
def test_bad_input_is_one_line(options, message) -> None:
    with pytest.raises(InputError) as caught:
        rank_bounds(torch.eye(3), **options)
    assert str(caught.value).startswith(message)


def test_a_stream_of_other_rows_is_refused() -> None:
    x = matrix("flat", 40, 30, 0)
    with pytest.raises(InputError, match="a second pass gave other rows"):
        rank_bounds(lambda: iter(x[torch.randperm(40)].split(7)), size=8)
    assert rank_bounds(lambda: iter(x[torch.randperm(40)].split(7)), size=8, passes=1).passes == 1
    huge = [torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 1e200]
    with pytest.raises(InputError, match="squares of later examples leave float64"):
        rank_bounds(lambda: huge)
