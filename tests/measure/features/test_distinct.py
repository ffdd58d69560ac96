"""Distinct units against a loop over the whole correlation matrix, and its conventions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features import distinct as distinct_module
from lowland.measure.features.distinct import distinct_units


def loop(x: np.ndarray, limit: float, signed: bool) -> int:
    """Units that vary and correlate with no unit kept before them."""
    units = [j for j in range(x.shape[1]) if np.ptp(x[:, j]) > 0]
    table = np.atleast_2d(np.corrcoef(x[:, units].T))
    table = table if signed else np.abs(table)
    kept: list[int] = []
    for j in range(len(units)):
        if all(table[j, i] <= limit for i in kept):
            kept.append(j)
    return len(kept)


def sample(n: int, d: int, seed: int) -> np.ndarray:
    """Units in families that resemble each other more or less; some constant, some negated."""
    rng = np.random.default_rng(seed)
    parents = rng.normal(size=(n, max(1, d // 3)))
    x = parents[:, rng.integers(0, parents.shape[1], d)] * rng.choice([-1.0, 1.0], d)
    x = x + rng.choice([0.0, 0.05, 0.3, 1.0], d) * rng.normal(size=(n, d))
    return np.where(rng.random(d) < 0.15, rng.normal(), x * rng.uniform(0.1, 10, d) + 3)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 25),
    d=st.integers(1, 40),
    step=st.integers(1, 25),
    block=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    limit=st.sampled_from([0.5, 0.95, 0.999]),
    signed=st.booleans(),
)
def test_equals_the_loop_however_the_work_is_split(n, d, step, block, seed, limit, signed) -> None:
    x = sample(n, d, seed)
    patch = pytest.MonkeyPatch()
    with patch.context() as p:
        p.setattr(distinct_module, "BLOCK", block)
        p.setattr(distinct_module, "TABLE", 4 * d)
        record = distinct_units(x, correlation=limit, signed=signed)
        rows = torch.from_numpy(x).split(step)
        streamed = distinct_units(lambda: iter(rows), correlation=limit, signed=signed)
    constant = int((np.ptp(x, axis=0) == 0).sum())
    assert (record.value, record.constant) == (loop(x, limit, signed), constant)
    assert record.value + record.duplicates + record.constant == d == record.considered
    assert (streamed.value, streamed.duplicates) == (record.value, record.duplicates)
    assert record.fraction == record.value / d


def test_first_come_first_kept() -> None:
    """b is near a and near c, a and c are not near: b goes if a is first, a and c stay."""
    angle = np.deg2rad([0.0, 40.0, 80.0])
    x = np.concatenate([[np.cos(angle), np.sin(angle)], -np.array([np.cos(angle), np.sin(angle)])])
    assert distinct_units(x, correlation=0.7).value == 2
    assert distinct_units(x[:, [1, 0, 2]], correlation=0.7).value == 1
    assert distinct_units(x[:, [0, 2, 1]], correlation=0.7).value == 2


@pytest.mark.parametrize("signed", [False, True])
def test_what_float32_cannot_decide_is_decided_in_float64(signed, monkeypatch) -> None:
    """Pairs whose correlation is the limit ± 1e-9, a millionth of what float32 products resolve."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(400, 60)))
    basis -= basis.mean(0)
    basis, _ = np.linalg.qr(basis)
    angles = 0.95 + 1e-9 * rng.choice([-1.0, 1.0], 30)
    near = basis[:, :30] * angles + basis[:, 30:60] * np.sqrt(1 - angles**2)
    x = np.concatenate([basis[:, :30], near], 1) * rng.choice([-1.0, 1.0], 60)
    expected = loop(x, 0.95, signed)
    assert 30 < expected < 60
    exact = []
    pairs = distinct_module._Table._pairs
    monkeypatch.setattr(
        distinct_module._Table, "_pairs", lambda *a: exact.append(len(a[1])) or pairs(*a)
    )
    for limit, block in ((2**15, 1024), (2**15, 7), (0, 1024)):
        monkeypatch.setattr(distinct_module, "LONGEST", limit)
        monkeypatch.setattr(distinct_module, "BLOCK", block)
        exact.clear()
        assert distinct_units(x, signed=signed).value == expected
        assert bool(exact) == (limit > 0)


def test_where_most_is_doubtful_all_is_done_in_float64(monkeypatch) -> None:
    """Any two of these units correlate by 0.36, up to the last bit."""
    basis = np.random.default_rng(0).normal(size=(60, 13))
    basis, _ = np.linalg.qr(basis - basis.mean(0))
    x = 0.6 * basis[:, :1] + 0.8 * basis[:, 1:]
    monkeypatch.setattr(distinct_module._Table, "_pairs", None)
    assert distinct_units(x, correlation=0.36 + 1e-12).value == 12
    assert distinct_units(x, correlation=0.36 - 1e-12).value == 1


def test_opposite_units_are_duplicates_unless_signs_count() -> None:
    x = np.random.default_rng(0).normal(size=(20, 1)) * [1.0, -1.0, 2.0]
    assert distinct_units(x).value == 1
    assert distinct_units(x, signed=True).value == 2
    assert distinct_units(x, signed=True).definition.startswith("units without those of correl")


def test_a_correlation_at_the_limit_is_not_above_it() -> None:
    x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    y = np.c_[x[:, 0], 0.6 * x[:, 0] + 0.8 * x[:, 1]]
    assert distinct_units(y, correlation=0.6 + 1e-12).value == 2
    assert distinct_units(y, correlation=0.6 - 1e-12).value == 1


def test_constant_units() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)) * [1.0, 0.0, 1.0] + [0.0, 0.1, 5.0]
    apart = distinct_units(x)
    assert (apart.value, apart.constant, apart.duplicates) == (2, 1, 0)
    assert distinct_units(x, constant="distinct").value == 3
    dead = distinct_units(torch.zeros(5, 4))
    assert (dead.value, dead.constant, dead.fraction) == (0, 4, 0.0)
    assert distinct_units(torch.zeros(5, 4), constant="distinct").value == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rounding_about_a_large_mean_is_no_variation(dtype) -> None:
    x = (torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 4).to(dtype)
    x[:, 2] = 100.0
    if dtype == torch.float32:
        x[::2, 2] = float(np.nextafter(np.float32(100), np.float32(101)))
    record = distinct_units(x)
    assert (record.value, record.constant) == (5, 1)


def test_one_example_has_no_variation() -> None:
    assert distinct_units([[1.0, 2.0, 3.0]]).constant == 3


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e200])
def test_scale_does_not_matter(scale) -> None:
    x = sample(30, 20, 4)
    assert distinct_units(x * scale).value == distinct_units(x).value


def test_among_active_units_only() -> None:
    """The two-layer count: units of magnitude 0.05 or more, without copies."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(20, 3))
    x = np.c_[x, x[:, :1] * 0.5, x * 0.01]
    record = distinct_units(x, rule="absolute", correlation=0.999)
    assert (record.considered, record.value, record.duplicates) == (4, 3, 1)
    assert distinct_units(x, correlation=0.999).value == 3
    assert distinct_units(x, rule="absolute", share=0.001).considered == 7
    with pytest.raises(InputError, match="rule: no unit is active under it; leave it out"):
        distinct_units(x, rule="absolute", share=2.0)


def test_a_sample_is_stated_and_drawn_again_alike() -> None:
    x = sample(30, 40, 2)
    drawn = [distinct_units(x, sample=10, seed=s) for s in (0, 0, 1, 2, 3)]
    assert drawn[0].value == drawn[1].value
    assert len({(r.value, r.constant) for r in drawn}) > 1
    assert (drawn[0].considered, drawn[0].seed, drawn[0].dimension) == (10, 0, 40)
    assert drawn[0].definition.startswith("10 sampled units without those of |correlation|")
    whole = distinct_units(x, sample=40, seed=5)
    assert (whole.value, whole.seed) == (distinct_units(x).value, None)
    places = np.sort(np.random.default_rng(1).choice(40, 10, replace=False))
    assert drawn[2].value == distinct_units(x[:, places]).value


def test_drawing_leaves_other_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()
    distinct_units(sample(5, 9, 0), sample=3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert repr(before[1]) == repr(np.random.get_state())


def test_flags_and_whole_numbers() -> None:
    x = np.random.default_rng(0).random((40, 5)) < 0.5
    x[:, 4] = ~x[:, 0]
    assert distinct_units(x).value == distinct_units(x.astype(np.int8)).value == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 1.0}, "correlation: 1.0 is not in (0, 1); give for example 0.95"),
        ({"correlation": float("nan")}, "correlation: nan is not in (0, 1)"),
        ({"constant": "dead"}, "unknown choice of constant 'dead': known: apart, distinct"),
        ({"sample": 0}, "sample: 0 units; give one or more, or None for all"),
        ({"rule": "relu"}, "unknown rule 'relu'"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(InputError) as caught:
        distinct_units(np.eye(3), **options)
    assert str(caught.value).startswith(message)
