"""Ranks of weight matrices: which there are, and what each is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from measure_cases import small_net
from torch import nn

from lowland.core.errors import InputError
from lowland.measure.features.rank import threshold_rank
from lowland.measure.weights import weight_ranks


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
    model = nn.ModuleDict({"embed": nn.Embedding(11, 8), "block1": layer})
    model.register_parameter("position", nn.Parameter(torch.randn(1, 5, 8)))
    model.register_parameter("cls", nn.Parameter(torch.randn(1, 1, 8)))
    return model


def test_every_matrix_of_a_transformer_and_no_vector() -> None:
    found = weight_ranks(transformer()).matrices
    assert {name: record.shape for name, record in found.items()} == {
        "position": (5, 8),
        "embed.weight": (11, 8),
        "block1.self_attn.in_proj_weight": (24, 8),
        "block1.self_attn.out_proj.weight": (8, 8),
        "block1.linear1.weight": (16, 8),
        "block1.linear2.weight": (8, 16),
    }


def test_each_is_the_svd_of_its_matrix() -> None:
    model = transformer()
    record = weight_ranks(model, variance=(0.9, 0.5))
    shares = []
    for name, found in record.matrices.items():
        weight = model.get_parameter(name).detach().double().squeeze(0).numpy()
        values = np.linalg.svd(weight, compute_uv=False)
        energy = values**2
        assert found.ranks == {t: threshold_rank(energy, t, noise=0.0) for t in (0.9, 0.5)}
        assert found.value == found.ranks[0.9]
        assert found.stable == pytest.approx(energy.sum() / energy[0])
        p = values / values.sum()
        assert found.effective == pytest.approx(math.exp(-(p * np.log(p)).sum()))
        assert found.numerical == np.linalg.matrix_rank(weight.astype(np.float32))
        np.testing.assert_allclose(found.energies, energy, rtol=1e-6)
        shares.append(found.ranks[0.9] / min(weight.shape))
    assert record.value == pytest.approx(np.mean(shares))
    assert record.shares[0.9] == record.value


def test_attention_splits_into_queries_keys_and_values() -> None:
    model = transformer()
    found = weight_ranks(model, parameters="block1.self_attn", split_attention=True).matrices
    weight = model["block1"].self_attn.in_proj_weight.detach()
    names = [f"block1.self_attn.in_proj_weight[{part}]" for part in ("query", "key", "value")]
    assert list(found) == [*names, "block1.self_attn.out_proj.weight"]
    for name, rows in zip(names, weight.split(8), strict=True):
        values = torch.linalg.svdvals(rows.double())
        assert found[name].stable == pytest.approx(float(values.square().sum() / values[0] ** 2))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (4, 6)),
        (nn.Conv2d(6, 4, (3, 2)), (4, 36)),
        (nn.Conv1d(6, 4, 3, groups=2), (4, 9)),
        (nn.ConvTranspose2d(6, 4, 3), (4, 54)),
        (nn.EmbeddingBag(7, 5), (7, 5)),
        (nn.Bilinear(3, 4, 5), (5, 12)),
    ],
)
def test_layers_of_all_kinds(layer, shape) -> None:
    ((_, record),) = weight_ranks(nn.Sequential(layer)).matrices.items()
    assert record.shape == shape
    assert record.full == min(shape)


def test_a_transposed_convolution_is_laid_out_by_its_outputs() -> None:
    layer = nn.ConvTranspose2d(6, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight[:, 1:] = layer.weight[:, :1]  # all four outputs alike
    assert weight_ranks(layer).matrices["weight"].numerical == 1


def test_known_ranks() -> None:
    layer = nn.Linear(10, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0] * 4 + [0.0] * 6)))
    record = weight_ranks(layer)
    assert (record.value, record.stable, record.numerical) == (0.4, 0.4, 0.4)
    assert record.effective == pytest.approx(0.4)
    nn.init.zeros_(layer.weight)
    assert weight_ranks(layer).value == 0


def test_tied_weights_count_once_and_frozen_ones_too() -> None:
    embed, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embed.weight
    model = nn.Sequential(embed, head).requires_grad_(False)
    assert list(weight_ranks(model).matrices) == ["0.weight"]


def test_a_glob_chooses() -> None:
    model = small_net()
    assert list(weight_ranks(model, parameters="block*").matrices) == [
        "block1.0.weight",
        "block2.1.weight",
    ]
    with pytest.raises(InputError, match="unknown parameter or module"):
        weight_ranks(model, parameters="blocks")
    with pytest.raises(InputError, match=r"parameters: none of block1.1.weight, .* is a matrix"):
        weight_ranks(model, parameters="block1.1.*")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype) -> None:
    model = small_net().to(dtype)
    record = weight_ranks(model)
    expected = weight_ranks(small_net())
    assert record.value == pytest.approx(expected.value, abs=0.1)
    assert record.numerical == 1.0


def test_float64_weights_are_decomposed_for_the_numerical_rank() -> None:
    layer = nn.Linear(5, 5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.logspace(0, -12, 5)))
    assert weight_ranks(layer).matrices["weight"].numerical == 5


def test_a_diverged_model_is_told_so() -> None:
    model = small_net()
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"model: head.weight has NaN or infinity; the run has"):
        weight_ranks(model)


def test_the_record_is_json() -> None:
    found = json.loads(json.dumps(weight_ranks(small_net(), variance=(0.9, 1.0)).to_dict()))
    assert found["matrices"]["head.weight"]["shape"] == [3, 6]
    assert set(found["shares"]) == {"0.9", "1.0"}


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(InputError, match="ReLU has no parameters"):
        weight_ranks(nn.ReLU())
    with pytest.raises(InputError, match="variance: 2 is not a share"):
        weight_ranks(nn.Linear(2, 2), variance=2)
