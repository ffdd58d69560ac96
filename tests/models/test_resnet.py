"""What each block's hook sees, recomputed from the state dict alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lowland.models import block_names, create

State = dict[str, Tensor]


def conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolution with 'same' padding as a sum over kernel positions."""
    n, _, h, w = x.shape
    k = weight.shape[-1]
    p = k // 2
    padded = torch.zeros(n, x.shape[1], h + 2 * p, w + 2 * p, dtype=x.dtype)
    padded[:, :, p : p + h, p : p + w] = x
    out = sum(
        torch.einsum("nihw,oi->nohw", padded[:, :, a : a + h, b : b + w], weight[:, :, a, b])
        for a in range(k)
        for b in range(k)
    )
    return out[:, :, ::stride, ::stride]


def norm(x: Tensor, state: State, name: str) -> Tensor:
    """Evaluation-mode BatchNorm from its definition, eps = 1e-5."""
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def preact_block(x: Tensor, s: State, b: str, stride: int) -> Tensor:
    a = relu(norm(x, s, f"{b}.bn1"))
    h = conv(a, s[f"{b}.conv1.weight"], stride)
    h = conv(relu(norm(h, s, f"{b}.bn2")), s[f"{b}.conv2.weight"])
    if f"{b}.shortcut.weight" in s:
        x = conv(a, s[f"{b}.shortcut.weight"], stride)
    return x + h


def postact_block(x: Tensor, s: State, b: str, stride: int) -> Tensor:
    h = relu(norm(conv(x, s[f"{b}.conv1.weight"], stride), s, f"{b}.bn1"))
    h = norm(conv(h, s[f"{b}.conv2.weight"]), s, f"{b}.bn2")
    if f"{b}.shortcut.0.weight" in s:
        x = norm(conv(x, s[f"{b}.shortcut.0.weight"], stride), s, f"{b}.shortcut.1")
    return relu(x + h)


def slow_features(name: str, x: Tensor, s: State) -> dict[str, Tensor]:
    """Every named feature and the logits."""
    preact = name.startswith("preact")
    levels, depth = (3, 1) if name.endswith("small") else (4, 2)
    block = preact_block if preact else postact_block
    x = conv(x, s["stem.weight" if preact else "stem.0.weight"])
    if not preact:
        x = relu(norm(x, s, "stem.1"))
    out = {}
    for level in range(1, levels + 1):
        for place in range(depth):
            halves = place == 0 and level > 1
            x = block(x, s, f"block{level}.{place}", 2 if halves else 1)
        out[f"block{level}"] = x
    if preact:
        out["final"] = x = relu(norm(x, s, "final.0"))
    out["pool"] = pooled = x.mean((2, 3))
    out["logits"] = pooled @ s["head.weight"].T + s["head.bias"]
    return out


def unsettle(model: nn.Module) -> None:
    """Random BatchNorm state and biases, so that no term of the formula is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                nn.init.uniform_(tensor, low, high)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
@pytest.mark.parametrize("name", ["preact-resnet18", "resnet18", "preact-resnet-small"])
def test_hooked_features_are_the_slow_recomputation(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = create(name, shape=shape, classes=5, width=3).double().eval()
    unsettle(model)
    seen: dict[str, Tensor] = {}
    for block in block_names(model):
        model.get_submodule(block).register_forward_hook(
            lambda _m, _i, out, block=block: seen.update({block: out})
        )
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        seen["logits"] = model(x)
    expected = slow_features(name, x, model.state_dict())
    assert list(seen) == list(expected)
    for block, value in expected.items():
        torch.testing.assert_close(seen[block], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["preact-resnet18", "preact-resnet-small"])
def test_the_residual_stream_is_raw(name: str) -> None:
    """Superblocks of a pre-activation network have negative outputs, all else has none."""
    model = create(name, shape=(1, 16, 16), classes=5, width=4)
    x = torch.randn(8, 1, 16, 16)
    for block, module in model.named_children():
        x = module(x)
        if block.startswith("block"):
            assert (x < 0).any()
        elif block != "stem" and block != "head":
            assert (x >= 0).all()


def test_post_activation_features_are_never_negative() -> None:
    model = create("resnet18", shape=(1, 16, 16), classes=5, width=4)
    x = torch.randn(8, 1, 16, 16)
    for block, module in model.named_children():
        x = module(x)
        assert block == "head" or (x >= 0).all()
