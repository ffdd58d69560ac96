"""Checkpoints of the paper's Table 1 in their exact layout, tiny, and a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Arrays = dict[str, Any]
VITS = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32")
MIXER = "Mixer-B_16"
WIDTH, HEADS, CLASSES, PATCH = 8, 2, 5, 4


def vit_layout(*, size: int, depth: int, seed: int) -> Arrays:
    """Names and axes of a ViT's arrays, as released; values are random."""
    normal = _normal(seed)
    each, hidden = WIDTH // HEADS, 2 * WIDTH
    arrays = {
        "cls": normal(1, 1, WIDTH),
        "embedding/kernel": normal(PATCH, PATCH, 3, WIDTH),
        "embedding/bias": normal(WIDTH),
        "Transformer/posembed_input/pos_embedding": normal(1, (size // PATCH) ** 2 + 1, WIDTH),
        **_norm(normal, "Transformer/encoder_norm"),
        "head/kernel": normal(WIDTH, CLASSES),
        "head/bias": normal(CLASSES),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        arrays |= _norm(normal, f"{block}/LayerNorm_0") | _norm(normal, f"{block}/LayerNorm_2")
        for part in ("query", "key", "value"):
            arrays[f"{attention}/{part}/kernel"] = normal(WIDTH, HEADS, each)
            arrays[f"{attention}/{part}/bias"] = normal(HEADS, each)
        arrays[f"{attention}/out/kernel"] = normal(HEADS, each, WIDTH)
        arrays[f"{attention}/out/bias"] = normal(WIDTH)
        arrays |= _dense(normal, f"{block}/MlpBlock_3", WIDTH, hidden)
    return arrays


def mixer_layout(*, size: int, depth: int, seed: int) -> Arrays:
    """The same of a Mixer."""
    normal = _normal(seed)
    arrays = {
        "stem/kernel": normal(PATCH, PATCH, 3, WIDTH),
        "stem/bias": normal(WIDTH),
        **_norm(normal, "pre_head_layer_norm"),
        "head/kernel": normal(WIDTH, CLASSES),
        "head/bias": normal(CLASSES),
    }
    for i in range(depth):
        block = f"MixerBlock_{i}"
        arrays |= _norm(normal, f"{block}/LayerNorm_0") | _norm(normal, f"{block}/LayerNorm_1")
        arrays |= _dense(normal, f"{block}/token_mixing", (size // PATCH) ** 2, 6)
        arrays |= _dense(normal, f"{block}/channel_mixing", WIDTH, 2 * WIDTH)
    return arrays


def write_checkpoints(folder: Path, *, depth: int = 4) -> Path:
    """All ten: the standard ViTs take larger images, as the public ones do."""
    for training, sizes in (("standard", (16, 12)), ("sam", (12, 12))):
        (folder / training).mkdir(parents=True)
        first = 10 * (training == "sam")
        for place, name in enumerate(VITS):
            arrays = vit_layout(size=sizes[0], depth=depth, seed=first + place)
            np.savez(folder / training / f"{name}.npz", **arrays)
        arrays = mixer_layout(size=sizes[1], depth=depth, seed=first + 9)
        np.savez(folder / training / f"{MIXER}.npz", **arrays)
    return folder


def write_images(folder: Path, *, classes: int = 3, each: int = 12) -> Path:
    """ImageFolder's layout, as ImageNet's train split has it: a folder per class."""
    draw = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 256, (15 + number, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{place.name}_{number}.JPEG")
    return folder


def _normal(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return lambda *shape: (0.5 * draw.standard_normal(shape)).astype(np.float32)


def _norm(normal: Any, name: str) -> Arrays:
    return {f"{name}/scale": 1 + normal(WIDTH), f"{name}/bias": normal(WIDTH)}


def _dense(normal: Any, name: str, outer: int, inner: int) -> Arrays:
    return {
        f"{name}/Dense_0/kernel": normal(outer, inner),
        f"{name}/Dense_0/bias": normal(inner),
        f"{name}/Dense_1/kernel": normal(inner, outer),
        f"{name}/Dense_1/bias": normal(outer),
    }
