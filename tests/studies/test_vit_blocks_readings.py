"""What is read off a ViT and a Mixer, against a forward pass written out here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_trained import made_trained
from torch import Tensor, nn

from lowland.studies.vit_blocks import columns
from lowland.studies.vit_blocks.columns import MIXER, VIT
from lowland.studies.vit_blocks.readings import read, sparse_coordinates
from lowland.train.reading import Trained

N = 30


def streams(module: nn.Module, inputs: Tensor) -> dict[str, dict[str, Tensor]]:
    """Block -> place -> values (b, t, d), from the children of each block."""
    parts: Any = dict(module.named_children())
    x = parts["stem"](inputs)
    x = parts["positions"](x) if "positions" in parts else x
    found = {}
    for name, block in parts.items():
        if not name.startswith("block"):
            continue
        normed = block.norm1(x)
        if hasattr(block, "attention"):
            branch, mlp = block.attention(normed), block.mlp
        else:
            branch, mlp = block.tokens(normed.transpose(1, 2)).transpose(1, 2), block.channels
        middle = x + branch
        before = mlp.widen(block.norm2(middle))
        after = mlp.gelu(before)
        added = mlp.narrow(after)
        found[name] = {
            "before-attention": x,
            "after-attention": middle,
            "after-mlp": middle + added,
            "attention-branch": branch,
            "before-activation": before,
            "after-activation": after,
            "mlp-branch": added,
        }
        x = middle + added
    return found


def svd_rank(rows: Tensor, center: str) -> int:
    x = rows.double().numpy()
    x = x - x.mean(axis=0 if center == "unit" else 1, keepdims=True)
    energy = np.linalg.svd(x, compute_uv=False) ** 2
    if energy.sum() < 1e-12 * N:
        return 0
    shares = np.cumsum(energy) / energy.sum()
    return int(np.argmax(shares >= 0.99 - 1e-9)) + 1


@pytest.fixture(scope="module", params=[VIT, MIXER])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Trained, dict[str, Any]]:
    kind = request.param
    trained = made_trained(
        tmp_path_factory.mktemp("run"), model=f"{kind}-mini", width=12, precision="64-true"
    )
    trained.module.double()
    return kind, trained, dict(read(trained, kind=kind, examples=N))


def images(trained: Trained, split: str = "train") -> Tensor:
    return trained.data.normalise(trained.data.splits[split].images[:N]).double()


@torch.no_grad()
def test_ranks_are_those_of_the_forward_pass(case: tuple[str, Trained, dict[str, Any]]) -> None:
    kind, trained, row = case
    seen = 0
    for block, places in streams(trained.module, images(trained)).items():
        for place, values in places.items():
            for token, rows in (("class", values[:, 0]), ("mean", values.mean(1))):
                for center in ("unit", "example"):
                    column = columns.rank(block, place, token, center=center)
                    assert row[column] == svd_rank(rows, center), column
                    seen += 1
    assert seen == 4 * 7 * 2 * 2
    token = columns.TOKENS[kind]
    for block, places in streams(trained.module, images(trained, "test")).items():
        rows = places["after-mlp"][:, 0] if token == "class" else places["after-mlp"].mean(1)
        assert row[columns.rank(block, "after-mlp", token, of="test")] == svd_rank(rows, "unit")


@torch.no_grad()
def test_the_start_is_the_network_at_initialisation(
    case: tuple[str, Trained, dict[str, Any]],
) -> None:
    kind, trained, row = case
    token = columns.TOKENS[kind]
    for block, places in streams(trained.untrained(), images(trained)).items():
        rows = places["mlp-branch"][:, 0] if token == "class" else places["mlp-branch"].mean(1)
        assert row[columns.rank(block, "mlp-branch", token, of="start")] == svd_rank(rows, "unit")
        part = columns.MATRICES[kind][0]
        ends = [row[columns.weights(block, part, "stable", of=of)] for of in ("start", "end")]
        assert ends[0] != ends[1]


def test_the_class_token_enters_as_one_vector(case: tuple[str, Trained, dict[str, Any]]) -> None:
    kind, _, row = case
    if kind == VIT:
        assert row[columns.rank("block1", "before-attention", "class")] == 0
        assert row[columns.rank("block1", "before-attention", "class", center="example")] == 1
        assert row[columns.mean_energy("block1", "before-attention", "class")] == pytest.approx(1)


@torch.no_grad()
def test_active_gelus_and_sparse_coordinates(case: tuple[str, Trained, dict[str, Any]]) -> None:
    kind, trained, row = case
    for block, places in streams(trained.module, images(trained)).items():
        after = places["after-activation"]
        for share in (0.1, 0.05):
            rows = after.flatten(0, 1)
            active = (rows > share * rows.max()).any(0).double().mean()
            assert row[columns.active(block, "rows", share)] == pytest.approx(float(active))
            if kind == VIT:
                first = after[:, 0]
                active = (first > share * first.max()).any(0).double().mean()
                assert row[columns.active(block, "class", share)] == pytest.approx(float(active))
        stream = places["after-attention"]
        reach = (stream[:, 0] if kind == VIT else stream.mean(1)).abs().amax(0)
        for against, scale in (("largest", reach.max()), ("median", reach.median())):
            column = columns.sparse(block, "after-attention", against=against)
            assert row[column] == pytest.approx(float((reach < 0.05 * scale).double().mean()))


def test_ranks_of_weights(case: tuple[str, Trained, dict[str, Any]]) -> None:
    kind, trained, row = case
    part = columns.MATRICES[kind][1]
    module = trained.module.get_submodule(f"block2.{part}")
    shares, stable = [], []
    for name, weight in module.named_parameters():
        if name.endswith("weight"):
            energy = np.linalg.svd(weight.detach().numpy(), compute_uv=False) ** 2
            held = np.cumsum(energy) / energy.sum()
            shares.append((np.argmax(held >= 0.99) + 1) / len(energy))
            stable.append(energy.sum() / energy[0] / len(energy))
    assert row[columns.weights("block2", part, "threshold")] == pytest.approx(np.mean(shares))
    assert row[columns.weights("block2", part, "stable")] == pytest.approx(np.mean(stable))


def test_one_huge_coordinate_hides_the_others_from_one_scale_alone() -> None:
    x = torch.ones(5, 10)
    x[:, 0] = 1000.0
    x[:, 1] = 0.0
    assert sparse_coordinates(x) == pytest.approx({"largest": 0.9, "median": 0.1})
    assert not any(map(math.isnan, sparse_coordinates(torch.zeros(3, 4)).values()))


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    trained = made_trained(tmp_path, model="vit-mini", width=8)
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    read(trained, kind=VIT, examples=20)
    after = trained.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks for module in trained.module.modules())
