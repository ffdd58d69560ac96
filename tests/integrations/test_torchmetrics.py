"""The metrics for torchmetrics against the instruments that they stand for."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from lowland import measure
from lowland.core.errors import InputError
from lowland.integrations.torchmetrics import ActiveUnits, FeatureRank, KNNError

SHARES = (0.5, 0.9, 0.99, 1.0)


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    """Of falling energies, so that ranks differ between shares."""
    generator = torch.Generator().manual_seed(seed)
    scales = 0.6 ** torch.arange(d)
    return torch.randn(n, d, generator=generator) * scales + shift


def labels(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 12),
    step=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    center=st.sampled_from(["unit", "example", "none"]),
    widest=st.sampled_from([4096, 3]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    shift=st.sampled_from([0.0, 10.0]),
)
def test_rank_equals_the_instrument(n, d, step, seed, center, widest, dtype, shift) -> None:
    """On ragged batches, with fewer examples than features too; from sums and from features."""
    x = features(n, d, seed, shift).to(dtype)
    metric = FeatureRank(SHARES, center, widest=widest)
    for part in x.split(step):
        metric.update(part)
    expected = measure.feature_rank(x, SHARES, center).ranks
    assert metric.compute().tolist() == [expected[s] for s in SHARES]
    kept = sum(t.numel() for t in metric.features)
    assert kept == (n * d if d > widest else 0)


def test_the_state_is_the_mean_and_the_squares() -> None:
    metric = FeatureRank()
    for part in features(1000, 5).split(100):
        metric.update(part.reshape(-1, 5, 1))
    assert [tuple(t.shape) for t in metric.moments] == [(1, 3 + 5 + 25)]
    assert metric.moments[0].dtype == torch.float64
    assert metric.compute().shape == ()


def test_noise_is_that_of_the_coarsest_type() -> None:
    for types in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        metric = FeatureRank(1.0)
        for dtype in types:
            metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-7]], dtype=dtype))
        assert int(metric.compute()) == 1
    metric = FeatureRank(1.0)
    metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-7]], dtype=torch.float64))
    assert int(metric.compute()) == 2


def test_a_large_common_mean_costs_no_digits() -> None:
    x = features(300, 6).double() + 1e6
    metric = FeatureRank(SHARES)
    for part in x.split(7):
        metric.update(part)
    assert metric.compute().tolist() == list(measure.feature_rank(x, SHARES).ranks.values())


@pytest.mark.parametrize("center", ["unit", "example"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_have_rank_zero(center, value, dtype) -> None:
    """Whatever the rounding of their mean over so many examples or features."""
    for sizes in ((3, 7), (10, 1, 6), (49,)):
        metric = FeatureRank(SHARES, center)
        for size in sizes:
            metric.update(torch.full((size, 7), value, dtype=dtype))
        assert metric.compute().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "gelu"},
        {"rule": "maximum", "share": 0.3},
        {"rule": "positive"},
        {"rule": "positive", "examples": 0.4},
        {"rule": "absolute", "share": 0.2, "examples": 0.1},
        {"channels": 3},
        {"channels": 3, "channels_last": True},
        {"rule": "positive", "channels": 2, "examples": 0.6},
    ],
)
@pytest.mark.parametrize("step", [1, 4, 20])
def test_active_units_equal_the_instrument(options, step) -> None:
    x = features(20, 6)
    metric = ActiveUnits(**options)
    for part in x.split(step):
        metric.update(part)
    assert int(metric.compute()) == measure.active_units(x, **options).value
    states = [*metric.largest, *metric.counts]
    assert len(states) == 1
    assert states[0].numel() <= 7


def test_neighbours_equal_the_instrument() -> None:
    x, y, u, v = features(40, 4), labels(40), features(23, 4, 1), labels(23, 1)
    metric = KNNError(k=5)
    for i in range(0, 40, 7):
        metric.update(u[i : i + 7], v[i : i + 7]) if i < 23 else None
        metric.update(x[i : i + 7], y[i : i + 7], reference=True)
    expected = measure.knn_error(x, y, u, v, k=5).value
    assert float(metric.compute()) == expected
    assert metric.compute().dtype == torch.float64


def test_called_like_a_function_they_give_the_value_of_the_batch() -> None:
    x, y = features(30, 5), labels(30)
    rank, active, error = FeatureRank(0.9), ActiveUnits(), KNNError(k=3)
    assert error(x[:20], y[:20], reference=True) is None
    for part, of in zip(x.split(10), y.split(10), strict=True):
        assert int(rank(part)) == measure.feature_rank(part, 0.9).value
        assert int(active(part)) == measure.active_units(part).value
        expected = measure.knn_error(x[:20], y[:20], part, of, k=3).value
        assert float(error(part, of)) == expected
    assert int(rank.compute()) == measure.feature_rank(x, 0.9).value
    assert int(active.compute()) == measure.active_units(x).value
    assert float(error.compute()) == measure.knn_error(x[:20], y[:20], x, y, k=3).value


def filled(name: str) -> torch.nn.Module:
    if name == "knn":
        metric = KNNError(k=3)
        metric.update(features(20, 5), labels(20), reference=True)
        metric.update(features(9, 5, 1), labels(9, 1))
        return metric
    make = {
        "rank": FeatureRank,
        "wide": lambda: FeatureRank(widest=2),
        "active": ActiveUnits,
        "positive": lambda: ActiveUnits("positive"),
    }
    metric = make[name]()
    metric.update(features(20, 5))
    return metric


NAMES = ["rank", "wide", "active", "positive", "knn"]


@pytest.mark.parametrize("name", NAMES)
def test_pickle_copy_and_state(name) -> None:
    metric = filled(name)
    value = metric.compute()
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()):
        assert torch.equal(other.compute(), value)
    assert not metric.state_dict()
    metric.persistent(True)
    fresh = pickle.loads(pickle.dumps(metric))
    fresh.reset()
    fresh.persistent(True)
    fresh.load_state_dict(metric.state_dict())
    fresh._update_count = 1
    assert torch.equal(fresh.compute(), value)


@pytest.mark.parametrize("name", NAMES)
def test_reset_forgets_and_states_merge(name) -> None:
    metric, other = filled(name), filled(name)
    value = metric.compute()
    metric.merge_state(other)
    both = metric.compute()
    if name == "rank":
        x = torch.cat([features(20, 5)] * 2)
        assert int(both) == measure.feature_rank(x).value
    else:
        assert both.shape == value.shape
    metric.reset()
    with (
        pytest.warns(UserWarning, match="was called before the ``update`` method"),
        pytest.raises(InputError, match=r": no features yet; call update first"),
    ):
        metric.compute()


def test_in_a_collection() -> None:
    collection = MetricCollection({"rank": FeatureRank(0.9), "active": ActiveUnits()})
    for part in features(30, 5).split(8):
        collection.update(part)
    found = collection.compute()
    assert int(found["rank"]) == measure.feature_rank(features(30, 5), 0.9).value
    assert int(found["active"]) == measure.active_units(features(30, 5)).value


def test_metrics_of_a_collection_that_agree_on_the_first_batch_may_differ_later() -> None:
    first, then = features(20, 6) * 1e-6, features(20, 1) + 0.1 * features(20, 6, seed=1)
    ranks = {c: FeatureRank(0.9, c) for c in ("unit", "example", "none")}
    large, small = torch.eye(6)[:5], 0.01 * torch.eye(6)[5:]
    active = {"positive": ActiveUnits("positive"), "absolute": ActiveUnits("absolute", share=0.05)}
    for metrics, parts in ((ranks, (first, then)), (active, (large, small))):
        collection = MetricCollection(copy.deepcopy(metrics))
        for part in parts:
            collection.update(part)
            for metric in metrics.values():
                metric.update(part)
        assert collection.compute() == {name: m.compute() for name, m in metrics.items()}
        assert len({int(m.compute()) for m in metrics.values()}) > 1


@pytest.mark.parametrize("make", [FeatureRank, ActiveUnits, lambda: ActiveUnits("positive")])
def test_another_number_of_features_is_named(make) -> None:
    metric = make()
    metric.update(features(3, 4))
    with pytest.raises(InputError, match="5 per example after 4"):
        metric.update(features(3, 5))


def test_features_that_change_later_do_not_change_the_state() -> None:
    metric, x = FeatureRank(0.9, widest=2), features(20, 5)
    expected = measure.feature_rank(x, 0.9).value
    metric.update(x)
    x.zero_()
    assert int(metric.compute()) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureRank(1.5), "variance: 1.5 is not a share in (0, 1]"),
        (lambda: FeatureRank(center="units"), "unknown center 'units': did you mean 'unit'?"),
        (lambda: ActiveUnits("relu"), "unknown rule 'relu'"),
        (lambda: ActiveUnits(examples=0.1), "examples: 0.1; give a share in [0, 1), under the"),
        (lambda: ActiveUnits(channels=4).update(torch.ones(2, 6)), "channels: 4 do not divide 6"),
        (lambda: FeatureRank().update(torch.tensor([[np.nan]])), "features: NaN or infinity"),
        (lambda: FeatureRank().update([[1e200]]), "features: their squares leave float64; divide"),
        (lambda: KNNError().update([[1.0]], [0, 1]), "labels: shape (2,); give one label for each"),
        (lambda: KNNError()([[1.0]], [0]), "KNNError: no reference yet; call update(..., ref"),
    ],
)
def test_bad_input(make, message) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['torchmetrics'] = None\n"
        "import lowland.integrations\n"
        "try:\n    import lowland.integrations.torchmetrics\n"
        "except ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        "lowland.integrations.torchmetrics needs torchmetrics: pip install 'lowland[metrics]'"
    )
