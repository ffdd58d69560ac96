"""Every way in which an image file can hold 8 bits a channel, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lowland.core.errors import InputError
from lowland.data.decode import decode_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels: np.ndarray, alpha: int) -> Image.Image:
    plane = np.full((*pixels.shape[:2], 1), alpha, np.uint8)
    return Image.fromarray(np.concatenate([pixels.reshape(6, 8, -1), plane], 2))


def indexed(values: np.ndarray) -> Image.Image:
    """A palette of 48 colours, each pixel of its own one."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert("P")
    image.putpalette(values.reshape(-1).tolist())
    return image


CASES: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "RGB": (lambda: file(Image.fromarray(RGB)), RGB),
    "RGBA, wholly transparent": (lambda: file(with_alpha(RGB, 0)), RGB),
    "palette": (lambda: file(indexed(RGB)), RGB),
    "palette with one transparent colour": (lambda: file(indexed(RGB), transparency=3), RGB),
    "palette with half-transparent ones": (
        lambda: file(indexed(RGB), transparency=bytes(range(48))),
        RGB,
    ),
    "grey": (lambda: file(Image.fromarray(GREY)), GREY),
    "grey and alpha": (lambda: file(with_alpha(GREY, 7)), GREY),
    "grey with a transparent level": (
        lambda: file(Image.fromarray(GREY), transparency=int(GREY[0, 0])),
        GREY,
    ),
    "black and white": (lambda: file(Image.fromarray(GREY > 99)), 255 * (GREY > 99)),
    "BMP": (lambda: file(Image.fromarray(RGB), "BMP"), RGB),
    "WEBP without loss": (lambda: file(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
}


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_as_stored_and_grey_has_one_channel(case: str) -> None:
    encoded, expected = CASES[case]
    found = decode_image("made", encoded()).numpy()
    wanted = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    assert found.shape == wanted.shape
    assert (found == wanted).all()


def test_inks_become_colours() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    found = decode_image("made", file(cyan, "JPEG")).float().mean((1, 2))
    assert found.tolist() == pytest.approx([0, 255, 255], abs=3)


def test_a_note_of_the_camera_turns_nothing() -> None:
    image = Image.new("RGB", (4, 8), (10, 20, 30))
    exif = image.getexif()
    exif[274] = 6  # a quarter turn
    assert decode_image("made", file(image, "JPEG", exif=exif)).shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (file(Image.fromarray(GREY.astype(np.uint16) * 257)), "made has mode I;16: store 8 bits"),
        (file(Image.fromarray(RGB))[:-30], "made cannot be decoded"),
        (file(Image.fromarray(RGB), "GIF"), "made cannot be decoded (cannot identify image file"),
        (b"", "made cannot be decoded"),
        (None, "made holds no image bytes"),
    ],
)
def test_what_is_refused(encoded: bytes | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_image("made", encoded)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
