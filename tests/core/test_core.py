"""Errors, selection, seeds and the arithmetic of perturbations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import all_finite, combine_norms, global_norm, inner_product
from lowland.core.records import Measurement
from lowland.core.selection import match_names, normalization_parameters


def test_unknown_names_get_the_nearest_one() -> None:
    error = unknown("model", "preact-resnet", ["mlp", "preact-resnet18"])
    assert "did you mean 'preact-resnet18'" in str(error)
    assert "did you mean" not in str(unknown("model", "zzz", ["mlp"]))
    assert isinstance(unknown("model", 3, ["mlp"]), ValueError)


def test_globs() -> None:
    names = ["stem", "block1", "block2", "block10"]
    assert match_names("block*", names) == ["block1", "block2", "block10"]
    assert match_names("block2, stem", names) == ["stem", "block2"]
    with pytest.raises(InputError, match="unknown block 'blok2': did you mean 'block2'"):
        match_names("stem,blok2", names)


def test_normalization_layers_are_found_by_type() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2, affine=True)
    )
    model.add_module("shortcut", nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    assert len(normalization_parameters(model)) == 8
    tied = nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))
    tied[1].weight = tied[0].weight
    assert len(normalization_parameters(tied)) == 3
    with pytest.raises(InputError, match="no normalization layer"):
        normalization_parameters(nn.Linear(1, 1))

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    assert len(normalization_parameters(nn.Sequential(Mine()), (Mine,))) == 1


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_global_norm_is_the_norm_of_everything(
    sizes: list[int], dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
    exact = math.sqrt(sum(float((t.double() ** 2).sum()) for t in tensors))
    assert float(global_norm(tensors)) == pytest.approx(exact, rel=1e-5)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert global_norm(tensors).dtype == wide
    assert float(inner_product(tensors, tensors)) == pytest.approx(exact**2, rel=1e-5)


def test_half_precision_norms_do_not_overflow() -> None:
    big = torch.full((4,), 60_000.0, dtype=torch.float16)
    assert not torch.isfinite(torch.linalg.vector_norm(big))
    assert float(global_norm([big])) == pytest.approx(120_000.0)


def test_norms_of_mixed_types_and_of_nothing() -> None:
    mixed = [torch.tensor([3.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.bfloat16)]
    assert float(global_norm(mixed)) == 5.0
    assert float(combine_norms([])) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_what_is_not_finite_is_found_and_the_rest_kept(dtype: torch.dtype, bad: float) -> None:
    values = torch.tensor([1.0, -0.0, 6e-8, 3.0], dtype=dtype)
    before = values.clone()
    assert bool(all_finite([values, torch.ones(2)]))
    raw, old = (torch.view_as_real(t) if t.is_complex() else t for t in (values, before))
    assert torch.equal(raw, old)
    assert torch.equal(torch.signbit(raw), torch.signbit(old))
    values[2] = bad
    assert not bool(all_finite([torch.ones(2), values]))
    assert bool(all_finite([]))


def test_records_become_plain_values() -> None:
    record = Measurement(
        name="x", value=1.5, definition="d", n=3, dtype="float64", seconds=0.1, seed=2
    )
    assert record.to_dict()["value"] == 1.5
    with pytest.raises(AttributeError):
        record.value = 2.0  # type: ignore[misc]
