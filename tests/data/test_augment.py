"""Augmentation against a slow reference, one image at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import POLICIES, augment


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_crop(image: Tensor, p: int, down: int, right: int) -> Tensor:
    """Pixel by pixel: out[y, x] = image[y + down - p, x + right - p], 0 outside."""
    _, h, w = image.shape
    out = torch.zeros_like(image)
    for y in range(h):
        for x in range(w):
            if 0 <= y + down - p < h and 0 <= x + right - p < w:
                out[:, y, x] = image[:, y + down - p, x + right - p]
    return out


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 6), st.integers(1, 3), st.integers(4, 17), st.integers(1, 9), st.integers(0, 9)
)
def test_augment_is_the_slow_reference(n: int, c: int, h: int, w: int, seed: int) -> None:
    images = torch.randint(1, 256, (n, c, h, w), dtype=torch.uint8, generator=draws(seed))
    p = round(h / 8)
    same = draws(seed + 1)
    offsets = torch.randint(2 * p + 1, (2, n), generator=same)
    mirror = torch.randint(2, (n, 1, 1, 1), generator=same).flatten()
    shifted = torch.stack(
        [slow_crop(images[i], p, int(offsets[0, i]), int(offsets[1, i])) for i in range(n)]
    )
    mirrored = torch.stack([s.flip(2) if m else s for s, m in zip(shifted, mirror, strict=True)])
    assert torch.equal(augment(images, "shift", draws(seed + 1)), shifted)
    assert torch.equal(augment(images, "shift-flip", draws(seed + 1)), mirrored)


@pytest.mark.parametrize(("size", "p"), [(8, 1), (28, 4), (32, 4), (64, 8)])
def test_offsets_are_uniform_on_all_places(size: int, p: int) -> None:
    n = 4000
    images = torch.zeros(n, 1, size, size, dtype=torch.uint8)
    middle = size // 2
    images[:, :, middle, middle] = 1
    out = augment(images, "shift", draws(0))
    assert out.sum() == n  # one bright pixel each, never moved out of the image
    _, _, y, x = out.nonzero().T
    for places in (y, x):
        counts = (places - places.min()).bincount()
        assert len(counts) == 2 * p + 1
        assert places.min() == middle - p
        expected = n / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 2 * p + 6 * (4 * p) ** 0.5
    assert abs(torch.corrcoef(torch.stack([y, x]).double())[0, 1]) < 0.06


def is_mirrored(policy: str) -> Tensor:
    """For each of 2000 images: left dark and right bright became left bright?"""
    images = torch.zeros(2000, 1, 32, 32, dtype=torch.uint8)
    images[..., 16:] = 200
    out = augment(images, policy, draws(0)).float()
    return out[:, 0, :, :16].mean((1, 2)) > out[:, 0, :, 16:].mean((1, 2))


def test_only_the_policy_that_says_flip_flips() -> None:
    assert not is_mirrored("shift").any()
    assert abs(is_mirrored("shift-flip").double().mean() - 0.5) < 0.05
    assert set(POLICIES) == {"none", "shift", "shift-flip"}


def test_none_is_the_input_itself_and_draws_nothing() -> None:
    images = torch.zeros(2, 1, 8, 8)
    generator = draws(5)
    before = generator.get_state()
    assert augment(images, "none", generator) is images
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("policy", ["shift", "shift-flip"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_reproducible_and_harmless(policy: str, dtype: torch.dtype) -> None:
    images = torch.randint(256, (5, 3, 8, 8), generator=draws(0)).to(dtype)
    kept = images.clone()
    out = augment(images, policy, draws(1))
    assert out.dtype == dtype
    assert out.shape == images.shape
    assert torch.equal(out, augment(images, policy, draws(1)))
    assert not torch.equal(out, augment(images, policy, draws(2)))
    assert torch.equal(images, kept)


def test_an_empty_batch_stays_empty() -> None:
    assert augment(torch.zeros(0, 1, 8, 8), "shift-flip", draws(0)).shape == (0, 1, 8, 8)


def test_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match="unknown augmentation 'shift_flip': did you mean 'shift-f"
    ):
        augment(torch.zeros(1, 1, 8, 8), "shift_flip", draws(0))
