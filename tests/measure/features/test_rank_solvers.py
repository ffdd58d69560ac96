"""The two-stage solver: the same ranks, an error that is bounded, and what happens if it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rank_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.measure.features import eigenvalues as eigenvalues_module
from lowland.measure.features import gram as gram_module
from lowland.measure.features import rank as rank_module
from lowland.measure.features import reduction as reduction_module
from lowland.measure.features.eigenvalues import eigenvalues
from lowland.measure.features.gram import Half, Whole, empty_gram
from lowland.measure.features.rank import feature_rank
from lowland.measure.features.reduction import reduce_to_band

SHARES = (0.3, 0.9, 0.99, 0.9999)


@pytest.fixture
def small_blocks(monkeypatch):
    """Two stages already for small matrices, with several blocks and many panels."""
    patch_sizes(monkeypatch, columns=16, band=4)


def patch_sizes(patch, columns: int, band: int) -> None:
    patch.setattr(gram_module, "HALVED_FROM", 2)
    patch.setattr(gram_module, "COLUMNS", columns)
    patch.setattr(reduction_module, "BAND", band)


def features(n: int, d: int, seed: int = 0, decay: float = 1.0, offset: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, d + 1, dtype=torch.float64) ** -decay + offset


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(2, 60),
    d=st.integers(2, 60),
    sizes=st.sampled_from([(1, 1), (6, 3), (7, 7), (16, 4), (64, 16), (128, 64)]),
    decay=st.sampled_from([0.0, 1.0, 4.0]),
    offset=st.sampled_from([0.0, 100.0]),
    center=st.sampled_from(["unit", "example", "none"]),
    seed=st.integers(0, 10**6),
)
def test_two_stages_equal_the_svd(n, d, sizes, decay, offset, center, seed) -> None:
    x = features(n, d, seed, decay, offset)
    with pytest.MonkeyPatch.context() as patch:
        patch_sizes(patch, *sizes)
        record = feature_rank(x, SHARES, center)
    energy = rank_oracle.energies(x.numpy(), center)
    assert record.solver == "two-stage"
    np.testing.assert_allclose(record.spectrum, energy, rtol=1e-9, atol=1e-12 * energy.sum())
    for variance, value in record.ranks.items():
        assert value in rank_oracle.possible_ranks(x.numpy(), variance, center)


@pytest.mark.parametrize("kind", ["zero", "constant", "one feature", "one example", "rank one"])
def test_two_stages_of_degenerate_features(kind, small_blocks) -> None:
    x = {
        "zero": torch.zeros(30, 20),
        "constant": torch.full((30, 20), 0.1),
        "one feature": torch.cat([torch.zeros(30, 19), torch.randn(30, 1)], 1),
        "one example": torch.randn(1, 20),
        "rank one": torch.randn(30, 1) @ torch.randn(1, 20),
    }[kind]
    expected = {"zero": 0, "constant": 0, "one feature": 1, "one example": 0, "rank one": 1}[kind]
    record = feature_rank(x, (0.99, 1.0), "unit")
    assert list(record.ranks.values()) == [expected, expected]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_at_its_own_size(dtype) -> None:
    """Without patched sizes: the solver is chosen by itself, and streams agree with memory."""
    size = gram_module.HALVED_FROM
    x = features(size, size + 100, decay=0.3).to(dtype)
    record = feature_rank(x, SHARES, "none")
    assert record.solver == "two-stage"
    gram = (x.double() @ x.double().T).numpy()
    energy = np.linalg.eigvalsh(gram)[::-1]
    held = np.cumsum(energy) / energy.sum()
    assert [int(np.argmax(held >= t)) + 1 for t in SHARES] == list(record.ranks.values())
    mine = np.cumsum(record.spectrum) / record.spectrum.sum()
    assert np.abs(mine - held).max() <= record.error < 1e-10
    assert record.certain(0.99)


def test_streams_take_two_stages_too(monkeypatch, small_blocks) -> None:
    from lowland.measure.features import products as products_module

    monkeypatch.setattr(products_module, "NARROW", 0)
    for shape in ((60, 40), (40, 60)):
        x = features(*shape)
        streamed = feature_rank(lambda x=x: x.split([7, 13, 1, len(x) - 21]), SHARES)
        assert streamed.solver == "two-stage"
        assert streamed.ranks == feature_rank(x, SHARES).ranks


def test_the_band_has_the_eigenvalues_of_the_matrix() -> None:
    x = features(300, 200)
    half = empty_gram(300, x, halved=True)
    half.add(x)
    band = reduce_to_band(half)
    dense = np.diag(band.diagonals[0])
    for i, entries in enumerate(band.diagonals[1:], start=1):
        dense += np.diag(entries[:-i], -i) + np.diag(entries[:-i], i)
    exact = np.linalg.eigvalsh((x @ x.T).numpy())
    np.testing.assert_allclose(np.linalg.eigvalsh(dense), exact, atol=1e-13 * exact[-1] * 300)
    shift = np.linalg.norm(np.linalg.eigvalsh(dense) - exact)  # ≤ ‖E‖_F (Hoffman, Wielandt)
    assert shift <= band.residual + 300 * 1e-15 * exact[-1]


def test_products_with_half_a_matrix(small_blocks) -> None:
    x = features(50, 30)
    half = empty_gram(50, x)
    assert isinstance(half, Half)
    half.add(x)
    half.add_outer(x[:, 0], -0.5)
    whole = x @ x.T - 0.5 * torch.outer(x[:, 0], x[:, 0])
    for first in (0, 3, 16, 17, 49):
        v = torch.randn(50 - first, 3, dtype=torch.float64)
        torch.testing.assert_close(half.times(v, first), whole[first:, first:] @ v)


def test_a_bound_on_the_probability_that_probes_miss_an_error() -> None:
    """P(χ²_m ≤ m/36) for even m, in closed form: the worst case, an error of rank one."""
    m = reduction_module.PROBES
    half_y = m / reduction_module.CONFIDENT**2 / 2
    series = math.fsum(half_y**i / math.factorial(i) for i in range(m // 2, m // 2 + 40))
    assert math.exp(-half_y) * series < 1e-9


def wrong_reflections(share: float):
    right = reduction_module._reflections

    def reflections(panel):
        v, t, r, off = right(panel)
        return v, t, r * (1 + share), off

    return reflections


@pytest.mark.parametrize("center", ["unit", "none"])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
class TestFallback:
    """Whatever makes the certificate fail, the answer is the direct solver's."""

    def expect_direct(self, shape, center) -> None:
        x = features(*shape)
        record = feature_rank(x, SHARES, center)
        assert record.solver == "direct"
        np.testing.assert_allclose(
            record.spectrum,
            rank_oracle.energies(x.numpy(), center),
            atol=1e-12 * record.spectrum.sum(),
        )

    def test_a_reduction_that_is_slightly_wrong(
        self, shape, center, monkeypatch, small_blocks
    ) -> None:
        """Off by 1e-9: the ranks would hardly ever show it, the certificate does."""
        monkeypatch.setattr(reduction_module, "_reflections", wrong_reflections(1e-9))
        self.expect_direct(shape, center)

    @pytest.mark.parametrize("field", ["residual", "drift"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e-3])
    def test_a_measurement_that_is_bad(
        self, shape, center, field, bad, monkeypatch, small_blocks
    ) -> None:
        import dataclasses

        def reduce(gram):
            return dataclasses.replace(reduce_to_band(gram), **{field: bad})

        monkeypatch.setattr(eigenvalues_module, "reduce_to_band", reduce)
        self.expect_direct(shape, center)

    def test_blocks_that_panels_do_not_fit_into(self, shape, center, monkeypatch) -> None:
        """A mistake that was really made, and that the certificate noticed."""
        patch_sizes(monkeypatch, columns=5, band=3)
        self.expect_direct(shape, center)

    def test_without_scipy(self, shape, center, monkeypatch, small_blocks) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "scipy.linalg", None)
        self.expect_direct(shape, center)


def test_reflections_that_are_not_orthogonal_are_noticed(monkeypatch) -> None:
    right = torch.linalg.solve_triangular

    def crooked(*args, **options):
        return right(*args, **options) * (1 + 1e-7)

    monkeypatch.setattr(torch.linalg, "solve_triangular", crooked)
    x = features(300, 200)
    half = empty_gram(300, x, halved=True)
    half.add(x)
    assert eigenvalues(half) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_error_bound_holds_and_is_not_far_too_large(seed) -> None:
    x = features(400, 150, seed=seed, decay=0.5)
    half, whole = (empty_gram(400, x, halved=halved) for halved in (True, False))
    assert isinstance(whole, Whole)
    half.add(x)
    whole.add(x)
    two, direct = eigenvalues(half), eigenvalues(whole)
    assert (two.solver, direct.solver) == ("two-stage", "direct")
    exact = np.linalg.svd(x.numpy(), compute_uv=False) ** 2
    exact = np.append(exact, np.zeros(250))
    for found in (two, direct):
        assert np.abs(np.cumsum(found.values) - np.cumsum(exact)).max() <= found.error
        assert found.error < 1e-10 * exact.sum()


class TestCertain:
    def test_a_tie_within_the_error_is_not_certain(self) -> None:
        """Shares exactly at the edge of the tie rule: any error could move them over it."""
        edge = rank_module.allowed_rest(0.75)
        record = feature_rank(
            torch.tensor([1 - edge, edge], dtype=torch.float64).sqrt().diag(), 0.75, "none"
        )
        assert record.value in (1, 2)
        assert not record.certain(0.75)
        assert record.certain(0.7)

    def test_equal_energies_are_certain_by_the_tie_rule(self) -> None:
        record = feature_rank(torch.eye(10), 0.5, "none")
        assert record.value == 5
        assert record.certain(0.5)

    def test_what_a_count_of_noise_says_is_not(self) -> None:
        record = feature_rank(torch.eye(3), 1.0, "none")
        assert not record.certain(1.0)
        assert feature_rank(torch.zeros(3, 3)).certain(1.0)
