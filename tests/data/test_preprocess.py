"""From stored images to inputs, against formulas and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lowland.core.errors import InputError
from lowland.data import Preprocessing


def image(channels: int = 3, height: int = 20, width: int = 30, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    small = torch.randint(256, (1, channels, 5, 7), generator=draws).float()
    smooth = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return smooth[0].round().to(torch.uint8)


def pillow(pixels: torch.Tensor, width: int, height: int, how: Image.Resampling) -> np.ndarray:
    made = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((width, height), how)
    return np.asarray(made).transpose(2, 0, 1).astype(float)


def test_normalisation_is_the_formula() -> None:
    pixels = image()
    done = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))(pixels, 255.0)
    expected = (pixels.numpy() / 255 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape(
        [0.5, 0.25, 2.0], (3, 1, 1)
    )
    np.testing.assert_allclose(done.numpy(), expected, atol=1e-6)
    assert done.dtype == torch.float32


def test_stored_values_pass_without_rounding() -> None:
    """What a run normalised in stored values comes out bit for bit."""
    pixels = image(1)
    done = Preprocessing(mean=(3.7,), std=(2.3,), unit=255.0)(pixels, 255.0)
    assert torch.equal(done, (pixels.float() - 3.7) / 2.3)
    digits = Preprocessing(mean=(0.0,), std=(1.0,), unit=16.0)(torch.full((1, 2, 2), 255.0), 255.0)
    assert torch.equal(digits, torch.full((1, 2, 2), 16.0))


@pytest.mark.parametrize(
    ("how", "filter_", "allowed"),
    [("bilinear", Image.Resampling.BILINEAR, 1.0), ("bicubic", Image.Resampling.BICUBIC, 2.0)],
)
@pytest.mark.parametrize("side", [8, 48])
def test_resizing_is_that_of_pillow_up_to_its_rounding(
    how: str, filter_: Image.Resampling, allowed: float, side: int
) -> None:
    pixels = image(height=24, width=24)
    made = Preprocessing(mean=(0.0,), std=(1.0,), unit=255.0, size=(side, side), interpolation=how)
    difference = made(pixels, 255.0).numpy() - pillow(pixels, side, side, filter_)
    assert np.abs(difference).max() <= allowed


def test_the_shorter_side_is_resized_and_the_centre_kept() -> None:
    pixels = image(height=20, width=40)
    made = Preprocessing(mean=(0.0,), std=(1.0,), unit=255.0, size=(10, 10))(pixels, 255.0)
    whole = pillow(pixels, 20, 10, Image.Resampling.BILINEAR)
    assert np.abs(made.numpy() - whole[:, :, 5:15]).max() <= 1.0
    inner = Preprocessing(mean=(0.0,), std=(1.0,), unit=255.0, size=(10, 10), resize=20)
    assert torch.equal(inner(pixels, 255.0), pixels[:, 5:15, 15:25].float())


def test_squashed_images_lose_nothing() -> None:
    pixels = image(height=20, width=40)
    made = Preprocessing(mean=(0.0,), std=(1.0,), unit=255.0, size=(10, 10), squash=True)
    difference = made(pixels, 255.0).numpy() - pillow(pixels, 10, 10, Image.Resampling.BILINEAR)
    assert np.abs(difference).max() <= 1.0


def test_a_crop_that_is_larger_than_the_image_is_filled() -> None:
    pixels = image(height=20, width=20)
    made = Preprocessing(mean=(0.0,), std=(1.0,), size=(16, 48), resize=8)(pixels, 255.0)
    whole = Preprocessing(mean=(0.0,), std=(1.0,), size=(48, 48))(pixels, 255.0)
    assert torch.equal(made, whole[:, 16:32])


def test_cubic_resizing_does_not_overshoot() -> None:
    edge = torch.cat([torch.zeros(1, 8, 4), torch.full((1, 8, 4), 255.0)], dim=2)
    made = Preprocessing(mean=(0.0,), std=(1.0,), size=(32, 32), interpolation="bicubic")
    done = made(edge, 255.0)
    assert done.min() >= 0.0
    assert done.max() <= 1.0


def test_grey_images_for_a_network_of_colour() -> None:
    grey = image(1)
    done = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 2.0))(grey, 255.0)
    assert torch.equal(done[0], done[1])
    assert torch.equal(done[0], 2 * done[2])
    with pytest.raises(InputError, match="images have 3 channels, the network takes 2"):
        Preprocessing(mean=(0.0, 0.0), std=(1.0, 1.0))(image(), 255.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "mean has 1 numbers, std 2"),
        ({"mean": (), "std": ()}, "mean has 0 numbers"),
        ({"mean": (0.5,), "std": (0.0,)}, "give numbers above 0"),
        ({"mean": (0.5,), "std": (0.5,), "size": (0, 4)}, "give 1 pixel or more"),
        (
            {"mean": (0.5,), "std": (0.5,), "interpolation": "bilinera"},
            "unknown interpolation 'bilinera': did you mean 'bilinear'?",
        ),
    ],
)
def test_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Preprocessing(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_words() -> None:
    made = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, size=(224, 224), resize=256)
    assert made.words() == (
        "shorter side 256 (bilinear), centre crop 224x224; values in [0, 1]; minus 0.5, over 0.25"
    )
    assert made.to_dict()["size"] == [224, 224]
