"""The benchmark of paper-size runs: that what it counts is counted, and that it runs."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fast_options
import paper_size
from counted_work import of_passes, of_rank, of_step
from device_times import OTHER, by_kind, kind_of
from lowland import models
from rounds import save


def test_operations_of_a_convolution_and_a_product() -> None:
    """2 operations a weight and position; backward twice that, once for what has no input grad."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(512, 10))
    conv, product = 2 * 4 * 8 * 3 * 9 * 64, 2 * 4 * 512 * 10
    forward = of_passes(net, (4, 3, 8, 8), torch.float32, backward=False)
    assert forward.flops == conv + product
    both = of_passes(net, (4, 3, 8, 8), torch.float32)
    assert both.flops == 2 * conv + 3 * product
    assert not any(p.is_meta for p in net.parameters())


def test_bytes_are_what_is_read_and_written() -> None:
    relu = of_passes(nn.ReLU(), (4, 3, 8, 8), torch.float32, backward=False)
    assert (relu.bytes, relu.other_bytes, relu.calls) == (2 * 4 * 768, 2 * 4 * 768, 1)
    half = of_passes(nn.ReLU(), (4, 3, 8, 8), torch.bfloat16, backward=False)
    assert half.bytes == relu.bytes / 2
    assert of_passes(nn.Flatten(), (4, 3, 8, 8), torch.float32, backward=False).bytes == 0
    linear = of_passes(nn.Linear(5, 7, bias=False), (3, 5), torch.float32, backward=False)
    assert (linear.bytes, linear.other_bytes) == (4 * (15 + 35 + 21), 0)


def test_the_floor_of_the_issue() -> None:
    """About 20 million image passes of 3.3 GFLOP."""
    net = models.create("preact-resnet18", shape=(3, 32, 32), classes=10, width=64)
    work = of_passes(net, (256, 3, 32, 32), torch.bfloat16)
    assert work.flops / 256 == pytest.approx(3.33e9, rel=1e-3)
    size = paper_size.Size()
    assert size.steps == 39_000
    assert 2 * 256 * size.steps == pytest.approx(20e6, rel=2e-3)
    assert of_step(11_172_170, sam=True, momentum=False).bytes == pytest.approx(0.849e9, rel=1e-3)
    assert of_rank(10_240, 16_384)[0] == of_rank(16_384, 10_240)[0] == 2 * 10_240**2 * 16_384


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cudnn::ops::nchwToNhwcKernel<float>", "layout of convolutions"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "convolutions and products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimizer"),
        ("void cudnn::batchnorm_bwtr_nhwc_semiPersist<...>", "normalisation"),
        ("triton_per_fused__native_batch_norm_legit", "normalisation"),
        ("triton_poi_fused_add_relu_3", "compiled"),
        ("Memcpy HtoD (Pinned -> Device)", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, relu>", OTHER),
    ],
)
def test_kernels_have_kinds(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_time_is_booked_by_kind() -> None:
    x = torch.randn(128, 128)
    found = by_kind(lambda: x @ x, "cpu", updates=1)
    assert found["convolutions and products"] > 0
    twice = by_kind(lambda: [x @ x for _ in range(8)], "cpu", updates=8)
    assert twice["convolutions and products"] < 8 * found["convolutions and products"]


def test_a_run_is_the_sum_of_its_parts() -> None:
    parts = {"whole": {"s": 3.0}, "rank of a": {"s": 1.0}, "rank of b": {"s": 0.5}}
    (row,) = paper_size.run_rows({"sam": {"ms": 10.0}}, parts, 0.5, paper_size.Size())
    assert row["train"] == 390.0
    assert row["evaluate"] == 120.0
    assert row["of that ranks"] == 60.0
    assert row["keep"] == 20.0  # at each of 40 evaluations, more often than every 30 seconds
    assert row["whole"] == 530.0
    assert row["share of ranks"] == 60 / 530
    (slow,) = paper_size.run_rows({"sam": {"ms": 100.0}}, parts, 0.5, paper_size.Size())
    assert slow["keep"] == 0.5 * (3900 + 120) / 30


def small(variants: list[str], methods: list[str], tmp_path: Path) -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's profiler and of Lightning
        found = paper_size.measure(replace(paper_size.QUICK, batch=4), methods, variants)
    save(tmp_path / "made.json", paper_size.table(found), found)
    written: dict[str, object] = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    return written


def test_it_runs_and_says_where_it_did(tmp_path: Path) -> None:
    found = small([paper_size.BASE], ["none"], tmp_path)
    assert set(found["updates"]) == {f"none: {paper_size.BASE}"}  # type: ignore[call-overload]
    assert {"commit", "torch", "cpu", "gpu"} <= set(found)
    text = (tmp_path / "made.txt").read_text(encoding="utf-8")
    assert "rank of block3" in text
    assert "a run, minutes" in text


@pytest.mark.slow
def test_all_variants_run(tmp_path: Path) -> None:
    variants = [name for name in paper_size.VARIANTS if "compiled" not in name]
    found = small(variants, ["none", "sam"], tmp_path)
    assert len(found["updates"]) == 2 * len(variants)  # type: ignore[arg-type]


def test_a_setting_is_within_noise_only_where_that_is_shown() -> None:
    plain = [0.10, 0.12, 0.11, 0.09, 0.13]
    spread = [0.001, -0.001, 0.0005, -0.0005, 0.0]
    near = fast_options.compared(plain, [p + s for p, s in zip(plain, spread, strict=True)])
    assert near["within"]
    assert near["difference"] == pytest.approx(0.0, abs=1e-12)
    shifted = fast_options.compared(plain, [p + 0.05 for p in plain])
    assert not shifted["within"]  # a difference that is certain
    assert shifted["low"] == pytest.approx(0.05)
    wide = fast_options.compared(plain, [0.13, 0.09, 0.11, 0.12, 0.08])
    assert not wide["within"]  # one that nobody knows
    assert wide["low"] < 0 < wide["high"]
    assert not fast_options.compared(plain, [*plain[:4], float("nan")])["within"]


@pytest.mark.slow
def test_pairs_of_runs_are_compared(tmp_path: Path) -> None:
    settings = ["epochs=1", "width=2", "limit=64", "rank_examples=20", "device=cpu"]
    rows = fast_options.compare("digits", 2, [0.2], ["float32, by channels"], settings, tmp_path)
    assert {row["quantity"] for row in rows} >= {"test/error", "rank/train/block2/unit/0.99"}
    assert len(list(tmp_path.iterdir())) == 4
    again = fast_options.compare("digits", 2, [0.2], ["float32, by channels"], settings, tmp_path)
    assert again == rows
    assert "float32, by channels, ρ = 0.2" in fast_options.table(rows, "digits")
