"""The table of all methods: that it has them all, and that what it says was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import method_rows
import methods
from lowland.models import create as create_model
from lowland.optim import METHODS
from method_rows import PEER, SAM_LIKE, WITHOUT, Batch, Row, all_rows
from method_rows import method_rows as own_rows
from methods import Networks, against_plain, judged, measure, mlp, peak_bytes, table
from pass_times import CALLS, PassTimes
from rounds import flanked, save

ROWS = all_rows()
PARTIAL = {"gradient-norm", "esam, freeze", "sl-sam"}
"""Rows whose backwards are not whole ones."""


def small(examples: int = 8) -> Batch:
    torch.manual_seed(0)
    model, narrow = (
        create_model("preact-resnet-small", shape=(3, 8, 8), classes=10, width=w) for w in (4, 2)
    )
    x, y = torch.randn(examples, 3, 8, 8), torch.randint(0, 10, (examples,))
    return Batch(model, x, y, narrow)


# Rows


def test_every_method_has_a_row_or_a_reason() -> None:
    covered = {name.partition(",")[0] for name in own_rows()}
    assert covered == set(METHODS) - set(WITHOUT)
    assert all(WITHOUT.values())
    order = [name.partition(",")[0] for name in ROWS]
    assert [n for n in dict.fromkeys(order) if n in METHODS] == [n for n in METHODS if n in covered]


def test_aims_are_those_that_were_set() -> None:
    aims = {name: row.aim for name, row in ROWS.items()}
    assert {name: aims[name] for name in ("esam", "looksam", "saf", "mesa")} == {
        "esam": 1.5, "looksam": 1.25, "saf": 1.03, "mesa": 1.2
    }  # fmt: skip
    assert aims["last-layer-sam"] == aims["logits-sam"] == 1.05
    assert ROWS["sl-sam"].memory_aim == 1.0
    two = [n for n, r in own_rows().items() if (r.forwards, r.backwards) == (2, 2)]
    assert len(two) > 15
    assert {aims[name] for name in two} == {SAM_LIKE} == {2.03}
    assert not any(aims[name] for name in ROWS if name.startswith(PEER))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Examples that go forward through the network and back."""
    seen = {"forwards": 0.0, "backwards": 0.0, "last": 0.0}
    original = torch.autograd.backward

    def backward(*args: Any, **kwargs: Any) -> None:
        seen["backwards"] += seen["last"]
        original(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    return seen


@pytest.mark.parametrize("name", ROWS)
def test_passes_are_as_counted(name: str, passes: dict[str, float]) -> None:
    """Hence the predictions, and that every method is called in the form that its row means."""
    row, batch = ROWS[name], small()

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        passes["forwards"] += len(args[0])
        passes["last"] = len(args[0])

    # the stem runs where the network does, and not where its output layer alone is run again
    batch.model.stem.register_forward_hook(count)
    step = row.build(batch)
    for _ in range(row.warm_up):
        step()
    passes.update(forwards=0.0, backwards=0.0)
    for _ in range(row.steps):
        step()
    whole = len(batch.x) * row.steps
    assert passes["forwards"] / whole == pytest.approx(row.forwards)
    if name not in PARTIAL:
        assert passes["backwards"] / whole == pytest.approx(row.backwards)


def test_predictions() -> None:
    assert Row(method_rows.plain, 1, 1).predicted == 1
    assert ROWS["sam"].predicted == 2
    assert ROWS["looksam"].predicted == pytest.approx(1.2)
    assert ROWS["esam"].predicted == pytest.approx(11 / 6)


# Times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes when a step says so."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def lasts(clock: list[float], seconds: float) -> Callable[[], None]:
    def step() -> None:
        clock[0] += seconds

    return step


def test_a_step_is_compared_with_its_neighbours(clock: list[float]) -> None:
    """On a machine that slows down steadily, ratios are what they are."""
    pace = [1.0]

    def slower(seconds: float) -> Callable[[], None]:
        def step() -> None:
            clock[0] += seconds * pace[0]
            pace[0] += 0.1

        return step

    steps = {"double": (slower(2.0), 1), "same": (slower(1.0), 1)}
    readings = flanked(steps, slower(1.0), rounds=5, seed=0)
    assert [r.ratio for r in readings["double"]] == pytest.approx(5 * [2.0])
    assert [r.ratio for r in readings["same"]] == pytest.approx(5 * [1.0])


def test_a_cycle_is_read_per_step(clock: list[float]) -> None:
    cycle = iter(2 * [2.0, 1.0, 1.0])
    steps = {"cycle": (lambda: lasts(clock, next(cycle))(), 3)}
    for reading in flanked(steps, lasts(clock, 1.0), rounds=2, seed=0)["cycle"]:
        assert reading.ratio == pytest.approx(4 / 3)


def test_passes_inside_a_step_are_told_apart(clock: list[float]) -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock[0] += 1.0
            return x * 2

    class Slowly(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            clock[0] += 3.0
            return g

    x = torch.ones(2, requires_grad=True)
    twice = nn.Sequential(Slow(), Slow())

    def step(own: float) -> Callable[[], None]:
        def run() -> None:
            loss = Slowly.apply(twice(x)).sum()
            loss.backward(retain_graph=True)
            torch.autograd.grad(loss, x)
            clock[0] += own

        return run

    before = [getattr(owner, name) for owner, name in CALLS]
    (reading,) = flanked({"step": (step(1.5), 1)}, step(0.5), rounds=1, seed=0)["step"]
    assert (reading.seconds, reading.inside) == (9.5, 8.0)
    assert reading.own == pytest.approx(1.0 / 8.5)
    assert [getattr(owner, name) for owner, name in CALLS] == before


def test_what_is_timed_is_put_back_after_an_error() -> None:
    before = nn.Module.__call__
    with pytest.raises(ZeroDivisionError), PassTimes() as passes:
        nn.Identity()(1 / 0)
    assert nn.Module.__call__ is before
    assert passes.seconds == 0


# Memory


def test_the_worst_step_and_the_median_one() -> None:
    kib = iter([1, 4, 2])

    def build(batch: Batch) -> Callable[[], None]:
        def step() -> None:
            torch.zeros(next(kib) * 256)

        return step

    peak = peak_bytes(Row(build, measured=3, warm_up=0), small)
    assert (peak["bytes"], peak["median"]) == (4096, 2048)
    base = {"bytes": 2048, "median": 2048}
    assert against_plain(peak, base, copy=1024) == {
        **peak, "ratio": 2.0, "median_ratio": 1.0, "copies": 2.0
    }  # fmt: skip


def test_the_wide_network_is_its_parameters() -> None:
    copy = 4 * sum(p.numel() for p in mlp().params)
    assert peak_bytes(ROWS["plain"], mlp)["bytes"] / copy == pytest.approx(2.0, abs=0.3)
    assert peak_bytes(ROWS["forward"], mlp)["bytes"] / copy < 0.3


def test_sl_sam_keeps_no_copy_of_what_does_not_move() -> None:
    """A step in the middle needs less than a plain one where parameters are nearly everything."""

    def wide() -> Batch:
        return mlp(width=128)

    row = replace(ROWS["sl-sam"], measured=15)
    assert peak_bytes(row, wide)["median"] < peak_bytes(ROWS["plain"], wide)["bytes"]


# The table


def measured(ratio: float, peak: float) -> dict[str, Any]:
    memory = {"bytes": 1, "median": 1, "ratio": peak, "median_ratio": peak, "copies": 0.0}
    times = {"forwards": 2, "backwards": 2, "predicted": 2.0, "ms": 1.0, "own": 0.0}
    return {**times, "ratio": ratio, "low": 1.0, "high": 3.0, "peak": memory, "MLP": memory}


@pytest.mark.parametrize(("ratio", "peak"), [(1.2, 0.9), (1.25, 1.0), (1.26, 1.01), (7.77, 3.21)])
def test_aims_are_judged_by_what_was_measured(ratio: float, peak: float) -> None:
    row, result = Row(method_rows.plain, aim=1.25, memory_aim=1.0), measured(ratio, peak)
    result["aims"] = judged(row, result)
    assert {what: aim["met"] for what, aim in result["aims"].items()} == {
        "time": ratio <= 1.25, "peak": peak <= 1.0, "MLP": peak <= 1.0
    }  # fmt: skip
    rows = {name: measured(1.0, 1.0) | {"aims": {}} for name in ("plain", "forward", "sam")}
    work = {"parameters": 1, "tensors": 1, "operations": 1, "plain_seconds": 1.0}
    work |= {"copy_seconds": 1.0, "sam_seconds": 1.0}
    text = table({"work": work, "rows": {**rows, "other": result}, "without": {}})
    (line,) = (line for line in text.splitlines() if line.startswith("other"))
    said = [f"<= 1.25 NOT MET: {ratio:.2f}", f"peak <= 1.00 NOT MET: {peak:.3f}"]
    assert [text in line for text in said] == [ratio > 1.25, peak > 1.0]
    assert line.count("met") == 3 * (ratio <= 1.25)


@pytest.mark.slow
def test_the_whole_table_on_a_small_network(tmp_path: Path) -> None:
    """Every row's step has run in `test_passes_are_as_counted`: here a few are enough."""
    wanted = ["plain", "forward", "sam", "last-layer-sam", "looksam", "esam", "saf", "sl-sam"]
    rows = {name: ROWS[name] for name in [*wanted, f"{PEER}sam"] if name in ROWS}
    rows["sl-sam"] = replace(rows["sl-sam"], warm_up=2, measured=2)
    networks = Networks(main=small, wide=lambda: mlp(width=64))
    result = measure(rows, networks, rounds=2, seed=0)
    assert list(result["rows"]) == list(rows)
    text = table(result)
    for name, row in result["rows"].items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert f"{row['ratio']:.2f}" in line
        assert row["ratio"] > 0
        assert {what: aim["measured"] for what, aim in row["aims"].items()} == {
            what: row["ratio"] if what == "time" else row[what]["ratio"] for what in row["aims"]
        }
    assert result["rows"]["plain"]["peak"]["ratio"] == 1.0
    assert result["rows"]["sam"]["MLP"]["copies"] == pytest.approx(1.0, abs=0.1)
    assert result["work"]["parameters"] == sum(p.numel() for p in small().params)
    save(tmp_path / "methods.json", text, {"results": result})
    written = json.loads((tmp_path / "methods.json").read_text(encoding="utf-8"))
    assert list(written["results"]["rows"]) == list(rows)


def test_a_skipped_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Batch:
        batch = small()
        batch.x[:] = float("inf")
        return batch

    rows = {name: ROWS[name] for name in ("plain", "forward", "sam")}
    monkeypatch.setattr(methods, "own_work", lambda batch: {})
    with pytest.raises(RuntimeWarning, match="not finite"):
        measure(rows, Networks(main=broken), rounds=2, seed=0)
