"""Checkpoints in the layout of the ``vision_transformer`` repository, and what they compute.

The forward passes here are written from the formulas, in NumPy and float64, and share no code with
the networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def vit_arrays(
    *,
    size: int = 12,
    patch: int = 4,
    width: int = 6,
    heads: int = 2,
    depth: int = 2,
    hidden: int = 10,
    classes: int = 3,
    representation: int | None = None,
    seed: int = 0,
) -> Arrays:
    """A random ViT checkpoint under its published names."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (0.5 * draw.standard_normal(shape)).astype(np.float32)

    tokens, each = (size // patch) ** 2, width // heads
    arrays = {
        "cls": normal(1, 1, width),
        "embedding/kernel": normal(patch, patch, 3, width),
        "embedding/bias": normal(width),
        "Transformer/posembed_input/pos_embedding": normal(1, tokens + 1, width),
        "Transformer/encoder_norm/scale": 1 + normal(width),
        "Transformer/encoder_norm/bias": normal(width),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays[f"{block}/{norm}/scale"] = 1 + normal(width)
            arrays[f"{block}/{norm}/bias"] = normal(width)
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            arrays[f"{attention}/{part}/kernel"] = normal(width, heads, each)
            arrays[f"{attention}/{part}/bias"] = normal(heads, each)
        arrays[f"{attention}/out/kernel"] = normal(heads, each, width)
        arrays[f"{attention}/out/bias"] = normal(width)
        arrays |= dense_pair(normal, f"{block}/MlpBlock_3", width, hidden)
    last = width
    if representation is not None:
        arrays["pre_logits/kernel"] = normal(width, representation)
        arrays["pre_logits/bias"] = normal(representation)
        last = representation
    arrays["head/kernel"] = normal(last, classes)
    arrays["head/bias"] = normal(classes)
    return arrays


def mixer_arrays(
    *,
    size: int = 12,
    patch: int = 4,
    width: int = 6,
    depth: int = 2,
    hidden_tokens: int = 5,
    hidden_channels: int = 8,
    classes: int = 3,
    seed: int = 0,
) -> Arrays:
    """A random Mixer checkpoint under its published names."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (0.5 * draw.standard_normal(shape)).astype(np.float32)

    tokens = (size // patch) ** 2
    arrays = {
        "stem/kernel": normal(patch, patch, 3, width),
        "stem/bias": normal(width),
        "pre_head_layer_norm/scale": 1 + normal(width),
        "pre_head_layer_norm/bias": normal(width),
        "head/kernel": normal(width, classes),
        "head/bias": normal(classes),
    }
    for i in range(depth):
        block = f"MixerBlock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            arrays[f"{block}/{norm}/scale"] = 1 + normal(width)
            arrays[f"{block}/{norm}/bias"] = normal(width)
        arrays |= dense_pair(normal, f"{block}/token_mixing", tokens, hidden_tokens)
        arrays |= dense_pair(normal, f"{block}/channel_mixing", width, hidden_channels)
    return arrays


def dense_pair(normal: Any, name: str, outer: int, inner: int) -> Arrays:
    return {
        f"{name}/Dense_0/kernel": normal(outer, inner),
        f"{name}/Dense_0/bias": normal(inner),
        f"{name}/Dense_1/kernel": normal(inner, outer),
        f"{name}/Dense_1/bias": normal(outer),
    }


def vit_forward(arrays: Arrays, images: Array) -> tuple[list[Array], Array]:
    """Residual stream after every block, and logits, of images (b, h, w, 3)."""
    a = {name: value.astype(np.float64) for name, value in arrays.items()}
    x = patches(images, a["embedding/kernel"], a["embedding/bias"])
    first = np.repeat(a["cls"], len(x), axis=0)
    x = np.concatenate([first, x], axis=1) + a["Transformer/posembed_input/pos_embedding"]
    stream = []
    while f"Transformer/encoderblock_{len(stream)}/LayerNorm_0/scale" in a:
        block = f"Transformer/encoderblock_{len(stream)}"
        x = x + attention(a, block, normed(a, f"{block}/LayerNorm_0", x))
        x = x + feed(a, f"{block}/MlpBlock_3", normed(a, f"{block}/LayerNorm_2", x))
        stream.append(x)
    out = normed(a, "Transformer/encoder_norm", x)[:, 0]
    if "pre_logits/kernel" in a:
        out = np.tanh(out @ a["pre_logits/kernel"] + a["pre_logits/bias"])
    return stream, out @ a["head/kernel"] + a["head/bias"]


def mixer_forward(arrays: Arrays, images: Array) -> tuple[list[Array], Array]:
    """The same for a Mixer."""
    a = {name: value.astype(np.float64) for name, value in arrays.items()}
    x = patches(images, a["stem/kernel"], a["stem/bias"])
    stream = []
    while f"MixerBlock_{len(stream)}/LayerNorm_0/scale" in a:
        block = f"MixerBlock_{len(stream)}"
        turned = np.swapaxes(normed(a, f"{block}/LayerNorm_0", x), 1, 2)
        x = x + np.swapaxes(feed(a, f"{block}/token_mixing", turned), 1, 2)
        x = x + feed(a, f"{block}/channel_mixing", normed(a, f"{block}/LayerNorm_1", x))
        stream.append(x)
    out = normed(a, "pre_head_layer_norm", x).mean(axis=1)
    return stream, out @ a["head/kernel"] + a["head/bias"]


def patches(images: Array, kernel: Array, bias: Array) -> Array:
    """Every patch in reading order times the kernel, summed over rows, columns and channels."""
    p = kernel.shape[0]
    rows, columns = images.shape[1] // p, images.shape[2] // p
    cut = [
        np.einsum("bhwc,hwcd->bd", images[:, r * p : (r + 1) * p, c * p : (c + 1) * p], kernel)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cut, axis=1) + bias


def normed(a: Arrays, name: str, x: Array) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * a[f"{name}/scale"] + a[f"{name}/bias"]


def attention(a: Arrays, block: str, x: Array) -> Array:
    """One head after another."""
    name = f"{block}/MultiHeadDotProductAttention_1"
    out = np.zeros_like(x)
    heads, each = a[f"{name}/query/bias"].shape
    for h in range(heads):
        q, k, v = (
            x @ a[f"{name}/{part}/kernel"][:, h] + a[f"{name}/{part}/bias"][h]
            for part in ("query", "key", "value")
        )
        weights = np.exp(q @ np.swapaxes(k, 1, 2) / np.sqrt(each))
        weights /= weights.sum(-1, keepdims=True)
        out += weights @ v @ a[f"{name}/out/kernel"][h]
    return out + a[f"{name}/out/bias"]


def feed(a: Arrays, name: str, x: Array) -> Array:
    h = x @ a[f"{name}/Dense_0/kernel"] + a[f"{name}/Dense_0/bias"]
    h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return h @ a[f"{name}/Dense_1/kernel"] + a[f"{name}/Dense_1/bias"]
