"""Checkpoints in JAX's layout against an independent forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jax_checkpoints import Arrays, mixer_arrays, mixer_forward, vit_arrays, vit_forward
from scipy.ndimage import zoom

from lowland.core.errors import InputError
from lowland.models import from_arrays

CASES = {
    "ViT": (vit_arrays, vit_forward, {}),
    "ViT with a layer before the head": (vit_arrays, vit_forward, {"representation": 7}),
    "ViT of one head": (vit_arrays, vit_forward, {"heads": 1, "depth": 3, "patch": 6}),
    "Mixer": (mixer_arrays, mixer_forward, {}),
    "Mixer of one patch": (mixer_arrays, mixer_forward, {"patch": 12, "depth": 1}),
}


def outputs(model: Any, images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Block outputs and logits in float64."""
    model = model.double()
    stream = []
    blocks = [m for name, m in model.named_children() if name.startswith("block")]
    for block in blocks:
        block.register_forward_hook(lambda _m, _i, out: stream.append(out.detach().numpy()))
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return stream, logits.numpy()


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_formulas(case: str, tmp_path: Path) -> None:
    make, forward, options = CASES[case]
    np.savez(tmp_path / "checkpoint.npz", **make(**options))
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        stored = dict(arrays)
    images = np.random.default_rng(1).standard_normal((4, 12, 12, 3))
    model, facts = from_arrays(stored)
    assert not model.training
    assert facts["size"] == 12
    expected, logits = forward(stored, images)
    found, found_logits = outputs(model, images)
    assert len(found) == len(expected) == facts["depth"]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
    np.testing.assert_allclose(found_logits, logits, atol=1e-10)


def test_the_exact_gelu_would_be_seen() -> None:
    arrays = vit_arrays()
    images = np.random.default_rng(1).standard_normal((4, 12, 12, 3))
    model, _ = from_arrays(arrays)
    for module in model.modules():
        if isinstance(module, torch.nn.GELU):
            module.approximate = "none"
    assert np.abs(outputs(model, images)[1] - vit_forward(arrays, images)[1]).max() > 1e-5


def test_names_of_newer_flax() -> None:
    arrays = vit_arrays()
    renamed = {
        n.replace("LayerNorm_2", "LayerNorm_1")
        .replace("Attention_1", "Attention_0")
        .replace("MlpBlock_3", "MlpBlock_0"): v
        for n, v in arrays.items()
    }
    assert renamed.keys() != arrays.keys()
    one, two = from_arrays(arrays)[0].state_dict(), from_arrays(renamed)[0].state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bfloat16_arrays() -> None:
    arrays = vit_arrays()
    narrow = {
        n: torch.from_numpy(v).bfloat16().view(torch.int16).numpy().view("V2")
        for n, v in arrays.items()
    }
    model, _ = from_arrays(narrow)
    expected = torch.from_numpy(arrays["head/kernel"]).bfloat16().float().T
    assert torch.equal(model.head.weight, expected)


@pytest.mark.parametrize("size", [8, 20])
def test_positions_are_resized_as_published(size: int) -> None:
    arrays = vit_arrays()
    model, facts = from_arrays(arrays, size=size)
    assert facts["position embeddings resized from"] == 12
    stored = arrays["Transformer/posembed_input/pos_embedding"]
    side = size // 4
    grid = zoom(stored[0, 1:].reshape(3, 3, -1), (side / 3, side / 3, 1), order=1)
    expected = np.concatenate([stored[0, :1], grid.reshape(side * side, -1)])
    np.testing.assert_allclose(model.positions.positions[0].detach(), expected, atol=1e-6)
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)


def without(name: str) -> Arrays:
    return {n: v for n, v in vit_arrays().items() if n != name}


@pytest.mark.parametrize(
    ("arrays", "size", "message"),
    [
        ({"a": np.zeros(2)}, None, "no ViT with a class token and no Mixer (it has 1 arrays: a"),
        (without("cls"), None, "no ViT with a class token"),
        (without("head/bias"), None, "1 arrays are missing, first 'head.bias'"),
        (without("head/kernel"), None, "array 'head/kernel' is missing"),
        ({**vit_arrays(), "head/other": np.zeros(2)}, None, "'head/other' belongs to no ViT"),
        ({**vit_arrays(), "conv_root/kernel": np.zeros(2)}, None, "'conv_root/kernel' belongs to"),
        ({**vit_arrays(), "head/bias": np.zeros(4)}, None, "head.bias has shape (4,), (3,) is"),
        ({**vit_arrays(), "head/bias": np.zeros(3, int)}, None, "floating-point numbers are"),
        ({**vit_arrays(), "head/kernel": np.zeros(4)}, None, "has shape (4,); 2 axes are needed"),
        (vit_arrays(), 13, "images of 13 pixels cannot be cut into patches of 4: use --size 12"),
        (mixer_arrays(), 16, "a Mixer takes images of one size, here 12 pixels, not 16"),
        (vit_arrays() | {"cls": np.zeros((1, 1, 5))}, None, "positions.class_token has shape"),
    ],
)
def test_refused(arrays: Arrays, size: int | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_arrays(arrays, size=size)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["query/kernel", "value/bias", "out/kernel"])
def test_heads_in_another_place_are_seen(part: str) -> None:
    """Flattened, (heads, d/heads) and (d/heads, heads) are equally long: 2·3 and 3·2."""
    arrays = vit_arrays()
    name = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_1/{part}"
    axes = (0, 1) if part != "query/kernel" else (1, 2)
    with pytest.raises(InputError, match=r"in the file, \(.*\) is needed for 2 heads"):
        from_arrays({**arrays, name: np.swapaxes(arrays[name], *axes)})


def test_two_names_of_one_parameter() -> None:
    """Of old Flax and of new: which of both would win is chance."""
    arrays = vit_arrays()
    old = "Transformer/encoderblock_0/LayerNorm_2/scale"
    with pytest.raises(InputError, match=r"LayerNorm_2/scale' and .*LayerNorm_1/scale' are the s"):
        from_arrays({**arrays, old.replace("_2", "_1"): arrays[old] + 1})


def test_patches_that_make_no_square() -> None:
    arrays = vit_arrays()
    name = "Transformer/posembed_input/pos_embedding"
    with pytest.raises(InputError, match="8 patches are no square"):
        from_arrays({**arrays, name: arrays[name][:, :9]})
