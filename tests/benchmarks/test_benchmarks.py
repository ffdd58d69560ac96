"""The benchmarks themselves: what they share, and that what they count is counted."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compiled
import data_parallel
from rounds import interleaved, ratios, save
from wire import Wire, received


def test_steps_are_taken_in_turn() -> None:
    taken: list[str] = []
    steps = {name: lambda name=name: taken.append(name) for name in "abc"}
    times = interleaved(steps, 20, seed=0, before=lambda: taken.append("-"))
    assert taken[::2] == 60 * ["-"]
    orders = ["".join(taken[1 + i : 6 + i : 2]) for i in range(0, 120, 6)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert len(set(orders)) > 1, "an order of its own in each round"
    assert {name: len(own) for name, own in times.items()} == {"a": 20, "b": 20, "c": 20}


def test_ratios_are_taken_within_rounds() -> None:
    times = {"one": [1.0, 10.0, 100.0], "two": [2.0, 20.0, 200.0]}
    assert ratios(times, "one")["two"] == {"ms": 20000.0, "ratio": 2.0, "low": 2.0, "high": 2.0}


def test_results_say_where_they_come_from(tmp_path: Path) -> None:
    save(tmp_path / "made.json", "a table", {"results": {"a": 1}})
    written = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert written["results"] == {"a": 1}
    assert {"commit", "torch", "cpu", "time"} <= set(written)
    text = (tmp_path / "made.txt").read_text(encoding="utf-8")
    assert text.startswith("a table\n")
    assert written["torch"] in text
    for said in (text, json.dumps(written)):
        assert str(tmp_path) not in said
        assert str(Path(__file__).parents[2]) not in said
    save(None, "nothing", {})


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux")
def test_bytes_that_come_in_are_seen() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        with socket.create_connection(door.getsockname()) as one, door.accept()[0] as other:
            before = received()
            one.sendall(bytes(50_000))
            got = 0
            while got < 50_000:
                got += len(other.recv(50_000))
            after = received()
    assert before is not None
    assert after is not None
    assert after - before == 50_000


def test_collectives_that_anybody_calls_are_counted(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        wire = Wire()
        with wire.counting():
            dist.all_reduce(torch.zeros(10))
            dist.broadcast(tensor=torch.zeros(3, dtype=torch.float64), src=0)
        dist.all_reduce(torch.zeros(10))
    finally:
        dist.destroy_process_group()
    assert (wire.calls, wire.others) == (2, 64)


@pytest.mark.slow
def test_bytes_are_as_predicted() -> None:
    for result in data_parallel.measure(rounds=2, seed=0).values():
        one, counts = result["gradient_bytes"], result["counts"]
        for method, row in counts.items():
            assert row["as_predicted"], method
            if row["sockets"] is not None:
                most = data_parallel.REDUCTIONS[method] * (one + result["buffer_bytes"])
                assert most <= row["sockets"] <= 1.01 * most, method
        assert counts["SAM global, closure"]["gradients"] == 2 * one
        assert counts["SAM local, closure"]["gradients"] == one
        assert counts["SAM local, closure"]["others"] == 4


def tiny() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    return model, torch.randn(16, 6)


@pytest.fixture
def simple_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "backend", lambda: "eager")
    monkeypatch.setattr(compiled, "STEPS", 3)


@pytest.mark.usefixtures("simple_backend")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_recompilation_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(run: Any, model: Any, x: Tensor, y: Tensor) -> Any:
        inner = compiled.closure(run, model, x, y)

        def step() -> None:
            inner()
            model[1].momentum = model[1].momentum / 2  # as implementations do that toggle it

        return step

    forms = {"SAM, closure": compiled.closure, "careless": careless}
    monkeypatch.setattr(compiled, "FORMS", forms)
    found = compiled.graphs(tiny)
    assert found["SAM, closure"] == {"first": 1, "last": 1}
    assert found["careless"]["last"] > 1
    row = {"ms": 1.0, "ratio": 1.0, "low": 1.0, "high": 1.0}
    result = {"times": {"plain": row}, "sam": {"eager": row}, "graphs": found}
    text = compiled.table("tiny", result)
    assert [line[:8] for line in text.splitlines() if "RECOMPILED" in line] == ["careless"]


def test_without_a_compiler_it_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compiled.backend() == "aot_eager"


@pytest.mark.slow
def test_the_two_layer_loop_is_timed_beside_the_grid() -> None:
    import two_layer

    loop, alone, grid, ranks = two_layer.rows(quick=True)
    assert (loop["runs"], alone["runs"], grid["runs"]) == (1, 1, 30)
    assert all(row["seconds"] > 0 for row in (loop, alone, grid))
    assert len(ranks["note"].split(", ")) == 5
