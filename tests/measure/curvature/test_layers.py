"""Layers whose fast kernels have no second derivative, and models that are called otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curvature_cases import relative
from measure_cases import batches, per_example, small_net
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowland.core.errors import InputError
from lowland.measure.curvature import HessianOperator


def product(model: nn.Module, data: Any, loss: Any = per_example, **options: Any) -> Tensor:
    with HessianOperator(model, loss, data, **options) as operator:
        draws = torch.Generator().manual_seed(0)
        vector = torch.randn(operator.size, generator=draws, dtype=operator.dtype)
        return operator @ vector


def difference(model: nn.Module, data: Any, step: float = 1e-5) -> Tensor:
    """H·v by central differences of gradients, in float64."""
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in weights)
    draws = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=draws, dtype=torch.float64)
    parts = vector.split([p.numel() for p in weights])
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, part in zip(weights, parts, strict=True):
                p += sign * step * part.view(p.shape)
        loss = sum(per_example(model(x), y).sum() for x, y in data) / sum(len(y) for _, y in data)
        found = torch.autograd.grad(loss, weights)
        slopes.append(torch.cat([g.flatten() for g in found]))
        with torch.no_grad():
            for p, part in zip(weights, parts, strict=True):
                p -= sign * step * part.view(p.shape)
    return (slopes[0] - slopes[1]) / (2 * step)


class Encoder(nn.Module):
    """The layer that has a fused path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(8, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


def sequences() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(5, 6, 8, dtype=torch.float64, generator=draws)
    y = torch.tensor([0, 1, 2, 1, 0])
    return [(x[:3], y[:3]), (x[3:], y[3:])]


@pytest.mark.parametrize("make", [Encoder, Attention, Recurrent])
def test_layers_with_fused_kernels(make) -> None:
    torch.manual_seed(0)
    model = make().double()
    found = product(model, sequences())
    assert relative(found, difference(model, sequences())) < 1e-6


@pytest.mark.parametrize("make", [Encoder, Attention])
def test_settings_for_attention_are_put_back(make) -> None:
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        before = torch.backends.cuda.math_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
        product(make().double(), sequences())
        after = torch.backends.cuda.math_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    assert before == after == (False, True)


def test_a_frozen_encoder_in_eval_mode() -> None:
    model = Encoder().double()
    model.body.requires_grad_(False)
    assert relative(product(model, sequences()), difference(model, sequences())) < 1e-6


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, values: Tensor, scale: Tensor) -> Tensor:
        return self.inner(values * scale)


def test_inputs_that_are_mappings() -> None:
    model = Keyword()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    named = [({"values": x, "scale": torch.full((4, 1), 2.0)}, y)]
    expected = product(model.inner, [(2 * x, y)])
    assert torch.allclose(product(model, named), expected, atol=1e-6)
    as_double = product(model, named, dtype=torch.float64)
    assert torch.allclose(as_double.float(), expected, atol=1e-5)


class Wrapped(nn.Module):
    """Returns something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x)}


def test_outputs_that_are_no_tensor() -> None:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return per_example(outputs["logits"], targets)

    model = Wrapped()
    data = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
    found = product(model, data, loss)
    assert torch.allclose(found, product(model.inner, data), atol=1e-7)
    with pytest.raises(InputError, match="returns dict; wrap it"):
        product(model, data, loss, matrix="ggn")


def test_a_compiled_model_is_measured_by_its_own_code() -> None:
    plain = small_net()
    compiled = torch.compile(plain, backend="aot_eager")
    assert torch.equal(product(compiled, batches()), product(plain, batches()))


def test_autocast_around_it_changes_nothing() -> None:
    model = small_net()
    expected = product(model, batches())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(product(model, batches()), expected)


def test_no_grad_and_inference_mode_around_it_change_nothing() -> None:
    model, data = small_net(), batches()
    expected = product(model, data)
    with torch.no_grad():
        assert torch.equal(product(model, data), expected)
    with torch.inference_mode():
        assert torch.equal(product(model, data).clone(), expected)
