"""The feature rank against NumPy's SVD, closed forms, and its invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import rank_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure import feature_rank

CENTERS = ["unit", "example", "none"]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.uint8]


def features(n: int, d: int, *, rank: int = 6, seed: int = 0, offset: float = 1.0) -> torch.Tensor:
    """ReLU features of a low-rank pre-activation with noise: a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (left @ right + 0.3 * noise + offset).relu()


def diagonal(*energies: float) -> torch.Tensor:
    """Features with exactly these squared singular values, uncentred."""
    return torch.diag(torch.tensor(energies, dtype=torch.float64).sqrt())


@settings(deadline=None, max_examples=120)
@given(
    n=st.integers(1, 24),
    d=st.integers(1, 24),
    rank=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([-3.0, 0.0, 2.0, 100.0]),
    center=st.sampled_from(CENTERS),
    dtype=st.sampled_from(TYPES),
    variance=st.floats(0.01, 0.9999),
)
def test_equals_the_svd(n, d, rank, seed, offset, center, dtype, variance) -> None:
    x = features(n, d, rank=rank, seed=seed, offset=offset).to(dtype)
    plain = x.double().numpy()
    energy = rank_oracle.energies(plain, center)
    record = feature_rank(x, variance, center)
    if energy.sum() <= 1e-13 * (plain**2).sum():
        assert record.value == 0
        return
    assert record.value in rank_oracle.possible_ranks(plain, variance, center)
    np.testing.assert_allclose(record.spectrum, energy, rtol=1e-9, atol=1e-12 * energy.sum())


@pytest.mark.parametrize("shape", [(200, 31), (31, 200), (64, 64), (40, 3, 5, 4), (7,), (1, 9)])
@pytest.mark.parametrize("center", CENTERS)
def test_equals_the_svd_for_all_shapes(shape, center) -> None:
    x = features(shape[0], int(np.prod(shape[1:]))).reshape(shape).float()
    record = feature_rank(x, [0.5, 0.9, 0.99, 0.9999], center)
    if shape[0] == 1 and center == "unit":
        assert record.ranks == dict.fromkeys(record.ranks, 0)
        return
    if shape[1:] == () and center == "example":
        assert record.value == 0
        return
    for variance, value in record.ranks.items():
        assert {value} == rank_oracle.possible_ranks(x.numpy(), variance, center)


def test_the_record_says_all_that_is_needed() -> None:
    record = feature_rank(features(50, 20).float(), [0.9, 0.5], "unit")
    assert (record.name, record.n, record.dimension, record.dtype) == (
        "feature_rank",
        50,
        20,
        "float64",
    )
    assert record.center == "unit"
    assert "0.9 " in record.definition
    assert "each feature minus its mean" in record.definition
    assert record.value == record.ranks[0.9] == record.at(0.9)
    assert record.at(0.5) == record.ranks[0.5]
    assert record.spectrum.dtype == np.float64
    assert len(record.spectrum) == 20
    assert (np.diff(record.spectrum) <= 0).all()
    assert record.unit == 1.0
    assert record.to_dict()["ranks"] == {"0.9": record.value, "0.5": record.at(0.5)}
    with pytest.raises(ValueError, match="read-only"):
        record.spectrum[0] = 0.0


@pytest.mark.parametrize(("energies", "variance", "expected"), [
    ((1, 1, 1, 1), 0.5, 2),
    ((1,) * 10, 0.1, 1),
    ((1,) * 10, 0.3, 3),
    ((1,) * 10, 0.31, 4),
    ((1,) * 100, 0.99, 99),
    ((1,) * 1000, 0.999, 999),
    ((1,) * 7, 3 / 7, 3),
    ((98, 1, 1), 0.98, 1),
    ((98, 1, 1), 0.99, 2),
    ((98, 1, 1), 0.9900001, 3),
    ((1, 0, 0), 0.9999, 1),
    ((4, 3, 2, 1), 1e-300, 1),
    ((4, 3, 2, 1), 1.0, 4),
    ((4, 3, 0, 0), 1.0, 2),
])  # fmt: skip
def test_closed_forms(energies, variance, expected) -> None:
    assert feature_rank(diagonal(*energies), variance, "none").value == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_equal_energies_do_not_move_by_one_when_rotated(dtype, seed) -> None:
    torch.manual_seed(seed)
    x = torch.linalg.qr(torch.randn(60, 20, dtype=torch.float64))[0].to(dtype)
    ranks = feature_rank(x, [0.05, 0.25, 0.5, 0.95], "none").ranks
    assert list(ranks.values()) == [1, 5, 10, 19]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("r", [1, 5, 40])
@pytest.mark.parametrize("shape", [(200, 100), (100, 200)])
def test_all_of_the_variance_is_the_rank_of_the_matrix(dtype, r, shape) -> None:
    torch.manual_seed(r)
    x = torch.randn(shape[0], r, dtype=dtype) @ torch.randn(r, shape[1], dtype=dtype)
    assert feature_rank(x, 1.0, "none").value == r
    assert feature_rank(x.relu(), 1.0, "none").value == np.linalg.matrix_rank(x.relu().numpy())


def test_no_share_is_held_by_noise() -> None:
    """Rounding in float32 gives 95 more energies; a share very near 1 must not count them."""
    torch.manual_seed(0)
    record = feature_rank(torch.randn(200, 5) @ torch.randn(5, 100), 1.0, "none")
    assert record.spectrum[5] > 0
    assert record.at(1 - 2**-52) == record.at(1.0) == 5


def test_a_weak_direction_is_not_taken_for_noise() -> None:
    x = torch.diag(torch.tensor([1.0, 1e-5]))
    assert feature_rank(x, 1.0, "none").value == 2
    assert feature_rank(x, 1 - 1e-11, "none").value == 2


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 1), (4, 2, 2)])
@pytest.mark.parametrize("center", CENTERS)
def test_zero_features_have_rank_zero(shape, center) -> None:
    record = feature_rank(torch.zeros(shape), [0.99, 1.0], center)
    assert (record.value, record.at(1.0)) == (0, 0)
    assert not record.spectrum.any()
    assert np.isnan(record.mean_energy)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float16, 0.1),
        (torch.float16, 2e4),
        *itertools.product(
            [torch.bfloat16, torch.float32, torch.float64], [0.1, 1e-30, 3e37, 1 / 3]
        ),
    ],
)
@pytest.mark.parametrize("shape", [(3001, 7), (31, 700), (1, 5)])
def test_constant_features_have_centred_rank_zero(value, dtype, shape) -> None:
    row = value * (1 + torch.arange(shape[1]) % 3).to(dtype)
    x = row.expand(shape)
    record = feature_rank(x, 0.99, "unit")
    assert record.value == 0
    assert record.mean_energy == pytest.approx(1.0, abs=1e-12)
    assert feature_rank(x.contiguous(), 0.99, "none").value == 1


@pytest.mark.parametrize("shape", [(500, 40), (40, 500)])
def test_rounding_in_float32_is_not_variance(shape) -> None:
    """Identical outputs, up to the last place: what kernels do to a dead block's constant."""
    torch.manual_seed(0)
    row = torch.rand(shape[1]) + 0.5
    x = row * (1 + 1.2e-7 * torch.randint(-1, 2, shape))
    assert x.std(0).max() > 0
    assert feature_rank(x, 0.99, "unit").value == 0
    signal = row * (1 + 1e-5 * torch.randn(shape))
    assert feature_rank(signal, 0.99, "unit").value > 0


@pytest.mark.parametrize("shape", [(300, 20), (20, 300)])
@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_large_common_mean_costs_nothing(shape, offset) -> None:
    """E[xxᵀ] - mmᵀ in float32 fails this at once, and in float64 at larger offsets."""
    x = (features(*shape, offset=0.0) + offset).float()
    expected = rank_oracle.energies(x.numpy(), "unit")
    record = feature_rank(x, 0.99, "unit")
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-7, atol=1e-9 * expected.sum())


def test_a_huge_mean_in_float64() -> None:
    x = features(300, 20, offset=0.0) + 1e9
    expected = rank_oracle.energies(x.numpy(), "unit")
    spectrum = feature_rank(x).spectrum
    np.testing.assert_allclose(spectrum, expected, rtol=1e-6, atol=1e-8 * expected.sum())


@pytest.mark.parametrize("shape", [(80, 30), (30, 80)])
@pytest.mark.parametrize("center", CENTERS)
class TestInvariances:
    SHARES = (0.5, 0.9, 0.99, 0.999)

    def ranks(self, x, center):
        return feature_rank(x, self.SHARES, center).ranks

    def test_permuted_examples(self, shape, center) -> None:
        x = features(*shape)
        assert self.ranks(x[torch.randperm(len(x))], center) == self.ranks(x, center)

    def test_permuted_features(self, shape, center) -> None:
        x = features(*shape)
        assert self.ranks(x[:, torch.randperm(x.shape[1])], center) == self.ranks(x, center)

    @pytest.mark.parametrize("scale", [-2.0, 1e-300, 1e-30, 1e-3, 1e30, 1e290])
    def test_scale(self, shape, center, scale) -> None:
        x = features(*shape)
        record = feature_rank(x * scale, self.SHARES, center)
        assert record.ranks == self.ranks(x, center)
        assert {t: record.at(t) for t in self.SHARES} == record.ranks

    def test_rotated_features(self, shape, center) -> None:
        x = features(*shape)
        if center == "example":  # depends on the axes: rotate what is orthogonal to (1, …, 1)
            ones = torch.ones(shape[1], 1, dtype=torch.float64)
            free = torch.randn(shape[1], shape[1] - 1, dtype=torch.float64)
            basis = torch.linalg.qr(torch.cat([ones, free], dim=1))[0]
            turn = torch.linalg.qr(torch.randn(*free.T.shape[:1] * 2, dtype=torch.float64))[0]
            rotation = basis @ torch.block_diag(torch.ones(1, 1).double(), turn) @ basis.T
        else:
            rotation = torch.linalg.qr(torch.randn(shape[1], shape[1], dtype=torch.float64))[0]
        assert self.ranks(x @ rotation, center) == self.ranks(x, center)

    def test_shifted_features(self, shape, center) -> None:
        x = features(*shape)
        shift = torch.randn(shape[1], dtype=torch.float64) * 50
        assert (self.ranks(x + shift, center) == self.ranks(x, center)) is (center == "unit")

    def test_repeated_examples(self, shape, center) -> None:
        x = features(*shape)
        assert self.ranks(x.repeat(3, 1), center) == self.ranks(x, center)

    def test_growing_share(self, shape, center) -> None:
        record = feature_rank(features(*shape).float(), 0.99, center)
        shares = [*np.linspace(0.001, 0.999, 300), 1 - 1e-6, 1 - 1e-9, 1 - 1e-12, 1.0]
        ranks = [record.at(t) for t in shares]
        assert ranks == sorted(ranks)
        assert ranks[0] >= 1


@pytest.mark.parametrize("f", [0.3, 0.94])
def test_the_mean_explains_the_difference_between_centrings(f) -> None:
    """Raw rank at t ≈ 1 + centred rank at 1 - (1 - t)/(1 - f), f = ‖mean‖² / E‖φ‖²."""
    torch.manual_seed(1)
    decay = torch.linspace(0, 4, 300).neg().exp().sqrt()
    x = torch.randn(2000, 300) * decay
    variance = decay.square().sum()
    mean = torch.randn(300)
    mean *= (f / (1 - f) * variance).sqrt() / mean.norm()
    x += mean
    raw, centred = feature_rank(x, 0.99, "none"), feature_rank(x, 0.99, "unit")
    assert raw.mean_energy == centred.mean_energy == pytest.approx(f, abs=0.01)
    predicted = 1 + centred.at(1 - (1 - 0.99) / (1 - raw.mean_energy))
    assert raw.value == pytest.approx(predicted, abs=2)
    if f == 0.94:
        assert centred.value > 1.5 * raw.value


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_mean_energy_is_of_the_features_as_given(center, shape) -> None:
    x = features(*shape)
    expected = x.mean(0).square().sum() / x.square().sum(1).mean()
    assert feature_rank(x, 0.99, center).mean_energy == pytest.approx(float(expected))


def inputs() -> dict[str, object]:
    x = features(20, 12).float()
    array = x.numpy()
    return {
        "tensor": x,
        "requires gradients": x.clone().requires_grad_(),
        "with a graph": x.clone().requires_grad_() * 1.0,
        "not contiguous": x.t().contiguous().t(),
        "strided": torch.stack([x, -x], -1)[..., 0],
        "maps": x.reshape(20, 3, 2, 2),
        "channels last": x.reshape(20, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "sparse": x.to_sparse(),
        "array": array,
        "backwards": array[::-1],
        "big-endian": array.astype(">f4"),
        "long double": array.astype(np.longdouble),
        "read-only": np.frombuffer(array.tobytes(), np.float32).reshape(20, 12),
        "lists": array.tolist(),
        "list of tensors": list(x),
        "list of leaves": [row.clone().requires_grad_() for row in x],
        "tuple of arrays": tuple(array),
        "chunks": lambda: iter(x.split(6)),
        "chunks of arrays": lambda: (array[i : i + 7] for i in range(0, 20, 7)),
        "list of chunks": lambda: [x[:3].numpy(), x[3:19].tolist(), x[19:]],
    }


@pytest.mark.parametrize("kind", inputs())
def test_features_of_every_kind(kind) -> None:
    given_features = inputs()[kind]
    expected = feature_rank(features(20, 12).float(), (0.9, 0.99))
    record = feature_rank(given_features, (0.9, 0.99))
    assert record.ranks == expected.ranks
    np.testing.assert_allclose(record.spectrum, expected.spectrum, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.uint64, bool])
def test_whole_numbers(dtype) -> None:
    x = np.random.default_rng(0).integers(0, 2, (20, 6)).astype(dtype)
    assert feature_rank(x, 0.8).value in rank_oracle.possible_ranks(x, 0.8, "unit")


def test_the_features_are_not_changed() -> None:
    x = features(30, 10)
    before = x.clone()
    for center in CENTERS:
        feature_rank(x, 0.99, center)
        feature_rank(x.numpy(), 0.99, center)
        feature_rank(lambda: iter([x]), 0.99, center)
        feature_rank(x.t(), 0.99, center)
    assert torch.equal(x, before)


NAN = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
INF = np.array([[1.0, np.inf], [0.0, 1.0]])

BAD = [
    (torch.zeros(0, 3), {}, "features: empty, shape (0, 3); give at least one example"),
    (torch.zeros(3, 0), {}, "features: empty, shape (3, 0)"),
    ([], {}, "features: empty, shape (0,)"),
    (3.0, {}, "features: got a single number; give an array with one row per example"),
    (NAN, {}, "features: NaN or infinity among them; remove those examples, or check the model"),
    (INF, {}, "features: NaN or infinity"),
    (-INF, {}, "features: NaN or infinity"),
    (lambda: iter([torch.eye(2), NAN]), {}, "chunk of features: NaN or infinity"),
    (None, {}, "features: of type object; give real numbers"),
    ("digits", {}, "features: of type <U6; give real numbers"),
    (torch.eye(2) * 1j, {}, "features: of type torch.complex64; give real numbers"),
    (np.eye(2) * 1j, {}, "features: of type complex128; give real numbers"),
    ([[1.0], [1.0, 2.0]], {}, "features: not an array; give one row per example, all equal"),
    ([torch.ones(1), torch.ones(2)], {}, "features: tensors of different shapes"),
    (iter([torch.eye(2)]), {}, "features: an iterator can be read only once; pass the array, or"),
    (torch.nn.Linear(2, 2), {}, "features: got a model; use stream(model, batches, block=...)"),
    (lambda: torch.eye(2), {}, "features: the callable returned Tensor; it must return an"),
    (lambda: 3, {}, "features: the callable returned int"),
    (lambda: iter([]), {}, "features: no chunks; give at least one"),
    (lambda: [torch.eye(2), torch.eye(3)], {}, "features: a chunk has 3 features per example"),
    (torch.eye(2), {"variance": 0.0}, "variance: 0.0 is not a share in (0, 1]; give for example"),
    (torch.eye(2), {"variance": 1.01}, "variance: 1.01 is not a share"),
    (torch.eye(2), {"variance": float("nan")}, "variance: nan is not a share"),
    (torch.eye(2), {"variance": "0.9"}, "variance: '0.9' is not a share"),
    (torch.eye(2), {"variance": None}, "variance: None is not a share"),
    (torch.eye(2), {"variance": True}, "variance: True is not a share"),
    (torch.eye(2), {"variance": [0.9, 99]}, "variance: 99 is not a share"),
    (torch.eye(2), {"variance": []}, "variance: no shares; give at least one"),
    (torch.eye(2), {"center": "units"}, "unknown center 'units': did you mean 'unit'? known:"),
    (torch.eye(2), {"center": None}, "unknown center 'None'"),
]  # fmt: skip


@pytest.mark.parametrize(("given_features", "options", "message"), BAD)
def test_bad_input_is_one_line(given_features, options, message) -> None:
    with pytest.raises(InputError) as caught:
        feature_rank(given_features, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_bad_share_is_refused_by_at() -> None:
    with pytest.raises(InputError, match="variance: 2 is not a share"):
        feature_rank(torch.eye(3)).at(2)


@pytest.mark.parametrize("variance", [np.float32(0.5), torch.tensor(0.5), 1, np.array([0.5, 1.0])])
def test_shares_of_every_kind(variance) -> None:
    assert feature_rank(torch.eye(4), variance, "none").value in (2, 4)
