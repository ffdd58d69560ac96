"""Names, sizes and initial state of the models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.models import MODELS, block_names, create, scale_weights

# networks of convolutions or plain layers; test_tokens.py has those over tokens
BLOCKS = {
    "preact-resnet18": ["block1", "block2", "block3", "block4", "final", "pool"],
    "preact-resnet18-4x4": ["block1", "block2", "block3", "block4", "final", "pool"],
    "resnet-small": ["block1", "block2", "block3", "pool"],
    "resnet18": ["block1", "block2", "block3", "block4", "pool"],
    "preact-resnet-small": ["block1", "block2", "block3", "final", "pool"],
    "mlp": ["block1", "block2"],
}


def preact_parameters(c: int, k: int, widths: list[int], depth: int) -> int:
    """Counted from the drawing: stem, blocks, final BatchNorm, head."""
    total = 9 * c * widths[0]
    before = widths[0]
    for level, w in enumerate(widths):
        for place in range(depth):
            u = before if place == 0 else w
            total += 2 * u + 9 * u * w + 2 * w + 9 * w * w
            total += u * w if place == 0 and level > 0 else 0
        before = w
    return total + 2 * before + before * k + k


def postact_parameters(c: int, k: int, widths: list[int], depth: int) -> int:
    """Counted from the drawing: stem with BatchNorm, blocks, head."""
    total = 9 * c * widths[0] + 2 * widths[0]
    before = widths[0]
    for level, w in enumerate(widths):
        for place in range(depth):
            u = before if place == 0 else w
            total += 9 * u * w + 2 * w + 9 * w * w + 2 * w
            total += u * w + 2 * w if place == 0 and level > 0 else 0
        before = w
    return total + before * k + k


def expected_parameters(name: str, shape: tuple[int, int, int], k: int, w: int) -> int:
    if name == "mlp":
        inputs = math.prod(shape)
        return inputs * w + w + w * w + w + w * k + k
    if name == "preact-resnet-small":
        return preact_parameters(shape[0], k, [w, 2 * w, 4 * w], 1)
    if name == "resnet-small":
        return postact_parameters(shape[0], k, [w, 2 * w, 4 * w], 1)
    count = postact_parameters if name == "resnet18" else preact_parameters
    positions = max(1, shape[1] // 32) ** 2 if name.endswith("4x4") else 1
    return 8 * w * k * (positions - 1) + count(shape[0], k, [w, 2 * w, 4 * w, 8 * w], 2)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_parameter_counts(name: str, channels: int, size: int) -> None:
    shape, width = (channels, size, size), 4
    model = create(name, shape=shape, classes=7, width=width)
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert parameters(model) == expected_parameters(name, shape, 7, width)
    assert all(p.requires_grad for p in model.parameters())
    model(torch.randn(3, *shape)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_the_default_width(name: str) -> None:
    model = create(name, shape=(3, 32, 32), classes=10)
    assert parameters(model) == expected_parameters(name, (3, 32, 32), 10, MODELS[name].width)


def test_published_sizes() -> None:
    """11,173,962 and 11,172,170 are known counts of the two 18-layer networks for CIFAR-10."""
    counts = [
        parameters(create(n, shape=(3, 32, 32), classes=10))
        for n in ("resnet18", "preact-resnet18")
    ]
    assert counts == [11_173_962, 11_172_170]


@pytest.mark.parametrize("name", BLOCKS)
def test_hooks_on_the_named_blocks(name: str) -> None:
    model = create(name, shape=(3, 32, 32), classes=10, width=4)
    assert block_names(model) == BLOCKS[name]
    shapes = {}
    for block in block_names(model):
        model.get_submodule(block).register_forward_hook(
            lambda _m, _i, out, block=block: shapes.update({block: tuple(out.shape)})
        )
    model(torch.randn(2, 3, 32, 32))
    levels = sum(block.startswith("block") for block in BLOCKS[name])
    expected = {f"block{i + 1}": (2, 4 * 2**i, 32 >> i, 32 >> i) for i in range(levels)}
    if name == "mlp":
        expected = {"block1": (2, 4), "block2": (2, 4)}
    else:
        last = expected[f"block{levels}"]
        expected |= {"final": last} if "final" in BLOCKS[name] else {}
        expected["pool"] = last[:2]
    assert shapes == expected


@pytest.mark.parametrize("name", ["preact-resnet18", "resnet18"])
def test_initial_statistics(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, shape=(3, 32, 32), classes=10, width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            n = module.weight.numel()
            std = math.sqrt(2 / fan_out)
            # five standard errors of a normal sample's mean and standard deviation
            assert abs(module.weight.mean()) < 5 * std / math.sqrt(n)
            assert abs(module.weight.std() / std - 1) < 5 / math.sqrt(2 * n)
            kurtosis = (module.weight / std).pow(4).mean()
            assert abs(kurtosis - 3) < 5 * math.sqrt(96 / n)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_linear_layers_keep_default_weights_and_lose_their_bias(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, shape=(1, 8, 8), classes=10)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert (module.bias == 0).all()
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_determines_the_model(name: str) -> None:
    def made(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        side = max(8, MODELS[name].smallest)
        model = create(name, shape=(1, side, side), classes=3, width=4)
        out = model(torch.linspace(-1, 1, 2 * side * side).view(2, 1, side, side))
        return [*model.state_dict().values(), out]

    for one, two in zip(made(1), made(1), strict=True):
        assert torch.equal(one, two)
    assert any(not torch.equal(one, two) for one, two in zip(made(1), made(2), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_no_output_is_changed_in_place(name: str) -> None:
    side = max(8, MODELS[name].smallest)
    model = create(name, shape=(1, side, side), classes=3, width=4)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        module.register_forward_hook(lambda _m, _i, out: seen.append((out, out.clone())))
    model(torch.randn(4, 1, side, side))
    assert len(seen) == len(list(model.modules()))
    assert all(torch.equal(out, then) for out, then in seen)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("preact-resnet-smal", {}, "unknown model 'preact-resnet-smal': did you mean 'preact-r"),
        ("ResNet18", {}, "did you mean 'resnet18'?"),
        ("mlp", {"width": 0}, "width is 0: use 1 or more"),
        ("resnet18", {"width": -2}, "width is -2: use 1 or more"),
        ("mlp", {"classes": 1}, "classes is 1: use 2 or more"),
        ("mlp", {"shape": (0, 8, 8)}, "mlp needs images of 1 pixels or more on each side, got 8x8"),
        ("resnet18", {"shape": (3, 7, 32)}, "resnet18 needs images of 8 pixels or more on each"),
        ("preact-resnet18", {"shape": (3, 32, 7)}, "needs images of 8 pixels or more"),
        ("preact-resnet-small", {"shape": (1, 3, 8)}, "needs images of 4 pixels or more"),
        ("vit", {"shape": (3, 30, 30)}, "vit cuts images into patches of 4x4 pixels, got 30x30"),
        ("mixer", {"shape": (3, 8, 16)}, "got 8x16: use square images whose sides are a multiple"),
        ("vit", {"width": 200}, "vit of width 200 has 3 heads: use a multiple of 64"),
    ],
)
def test_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        create(name, **{"shape": (1, 8, 8), "classes": 3, **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_image_works(name: str) -> None:
    side = MODELS[name].smallest
    model = create(name, shape=(1, side, side), classes=2, width=2)
    assert model(torch.randn(2, 1, side, side)).isfinite().all()


@pytest.mark.parametrize("name", [*BLOCKS, "vit", "mixer"])
def test_depth_adds_blocks(name: str) -> None:
    shape, width = (1, 32, 32), 4
    deep = create(name, shape=shape, classes=3, width=width, depth=4)
    assert deep(torch.randn(2, *shape)).shape == (2, 3)
    usual = create(name, shape=shape, classes=3, width=width)
    same = create(name, shape=shape, classes=3, width=width, depth=MODELS[name].depth)
    assert parameters(usual) == parameters(same)
    if name == "mlp":
        assert block_names(deep) == ["block1", "block2", "block3", "block4"]
        assert parameters(deep) - parameters(usual) == 2 * (width * width + width)
    elif "resnet" in name:
        assert len(deep.block2) == 4
    with pytest.raises(InputError, match="depth is 0: use 1 or more"):
        create(name, shape=shape, classes=3, depth=0)


def test_windows_of_four_are_all_of_32_pixels_and_quarters_of_64() -> None:
    torch.manual_seed(0)
    windows = create("preact-resnet18-4x4", shape=(3, 32, 32), classes=5, width=2)
    torch.manual_seed(0)
    whole = create("preact-resnet18", shape=(3, 32, 32), classes=5, width=2)
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(windows(x), whole(x))
    tiny = create("preact-resnet18-4x4", shape=(3, 64, 64), classes=5, width=2).eval()
    maps = nn.Sequential(*list(tiny.children())[:-2])(torch.randn(3, 3, 64, 64))
    assert maps.shape == (3, 16, 8, 8)
    pooled = tiny.get_submodule("pool")(maps)
    torch.testing.assert_close(pooled, nn.functional.avg_pool2d(maps, 4).flatten(1))


def test_weights_are_scaled_and_nothing_else() -> None:
    model = create("mlp", shape=(1, 4, 4), classes=3, width=5, depth=3)
    x = torch.randn(7, 1, 4, 4)
    before = model(x)
    scale_weights(model, 0.5)
    torch.testing.assert_close(model(x), before / 16)  # four layers, biases 0
    norms = create("resnet-small", shape=(1, 8, 8), classes=3, width=2)
    kept = {n: p.clone() for n, p in norms.named_parameters()}
    scale_weights(norms, 3.0)
    for name, parameter in norms.named_parameters():
        factor = 3.0 if parameter.ndim > 1 else 1.0
        assert torch.equal(parameter, kept[name] * factor)
