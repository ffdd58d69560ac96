"""ViT and Mixer: sizes, names, hooks, start, and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowland.models import MODELS, Mixer, ViT, block_names, create

TOKENS = [name for name, a in MODELS.items() if a.patch is not None]


def vit_parameters(c: int, k: int, size: int, patch: int, d: int, depth: int) -> int:
    """Counted from the drawing."""
    block = 2 * 2 * d + 4 * (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    start = patch * patch * c * d + d + d + ((size // patch) ** 2 + 1) * d
    return start + depth * block + 2 * d + d * k + k


def mixer_parameters(c: int, k: int, size: int, patch: int, d: int, depth: int) -> int:
    """Counted from the drawing."""
    t, inner = (size // patch) ** 2, d // 2
    block = 2 * 2 * d + (2 * t * inner + inner + t) + (8 * d * d + 4 * d + d)
    return patch * patch * c * d + d + depth * block + 2 * d + d * k + k


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "patch", "width", "depth"),
    [
        ("vit-mini", 2, 64, 4),
        ("vit", 4, 192, 6),
        ("vit-ti4", 4, 192, 12),
        ("vit-b16", 16, 768, 12),
        ("vit-b32", 32, 768, 12),
        ("vit-l16", 16, 1024, 24),
        ("vit-l32", 32, 1024, 24),
        ("mixer-mini", 2, 64, 4),
        ("mixer", 4, 192, 6),
        ("mixer-ti4", 4, 192, 12),
        ("mixer-b16", 16, 768, 12),
        ("mixer-b32", 32, 768, 12),
        ("mixer-l16", 16, 1024, 24),
    ],
)
def test_sizes(name: str, patch: int, width: int, depth: int) -> None:
    with torch.device("meta"):
        model = create(name, shape=(3, 224, 224), classes=1000)
    count = vit_parameters if name.startswith("vit") else mixer_parameters
    assert parameters(model) == count(3, 1000, 224, patch, width, depth)
    assert name in TOKENS


def test_published_parameter_counts() -> None:
    """Known counts: ViT-B/16 86,567,656, ViT-L/16 304,326,632, Mixer-B/16 59,880,472."""
    counts = []
    for name in ("vit-b16", "vit-l16", "mixer-b16"):
        with torch.device("meta"):
            counts.append(parameters(create(name, shape=(3, 224, 224), classes=1000)))
    assert counts == [86_567_656, 304_326_632, 59_880_472]


@pytest.mark.parametrize("name", TOKENS)
def test_hooks_see_the_stream_and_every_child(name: str) -> None:
    side = 2 * MODELS[name].smallest
    model = create(name, shape=(3, side, side), classes=5, width=8).eval()
    depth = sum(block.startswith("block") for block, _ in model.named_children())
    assert block_names(model) == [f"block{i + 1}" for i in range(depth)] + ["pool"]
    tokens = 5 if name.startswith("vit") else 4
    seen: dict[str, object] = {}
    for child, module in model.named_modules():
        module.register_forward_hook(
            lambda _m, i, out, child=child: seen.update({child: (i[0], out)})
        )
    with torch.no_grad():
        model(torch.randn(2, 3, side, side))
    assert set(seen) == {child for child, _ in model.named_modules()}
    second = {"ViT": ("attention", "mlp"), "Mixer": ("tokens", "channels")}[type(model).__name__]
    stream, out = seen["block2"]
    assert out.shape == (2, tokens, 8)
    if name.startswith("vit"):
        between, added = seen["block2.norm2"][0], seen["block2.attention"][1]
        assert torch.equal(between, stream + added)
    else:
        between = seen["block2.norm2"][0]
    assert torch.equal(out, between + seen[f"block2.{second[1]}"][1])


@pytest.mark.parametrize("kind", [ViT, Mixer])
def test_gradients_reach_every_parameter(kind: type[nn.Module]) -> None:
    options = {"heads": 2, "representation": 5} if kind is ViT else {}
    model = kind(1, 3, size=8, patch=4, width=8, depth=2, **options)
    model(torch.randn(3, 1, 8, 8)).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    # softmax does not see what is added to all keys
    assert reached >= {n for n, _ in model.named_parameters() if not n.endswith("key.bias")}
    assert all(
        module.bias.eq(0).all() for module in model.modules() if isinstance(module, nn.Linear)
    )


def test_a_class_token_sees_all_patches_and_their_places() -> None:
    torch.manual_seed(0)
    model = create("vit", shape=(1, 8, 8), classes=3, width=16).double().eval()
    images = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    turned = torch.cat([images[..., 4:], images[..., :4]], dim=-1)  # halves change places
    assert (model(images) - model(turned)).abs().max() > 1e-6
    with torch.no_grad():
        model.positions.positions.zero_()
    assert torch.allclose(model(images), model(turned), atol=1e-12)
