from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lowland.core.errors import InputError
from lowland.train.state import State, load_state, save_state

TENSORS = "state-7.safetensors"


def some_state(step: int = 7) -> State:
    shared = torch.arange(6.0)
    return State(
        step=step,
        model={"a": shared[:4], "b": shared[2:], "count": torch.tensor(3)},
        optimizer={"state": {0: {"step": torch.tensor(2.0), "mean": None}}, "groups": [(0.1, 1)]},
        seconds={"train": 1.5},
        rows=[{"step": 0, "loss": math.inf}],
        definitions={"loss": "mean"},
        sessions=[{"step": 0, "commit": None}],
    )


def test_a_state_comes_back_exactly(tmp_path: Path) -> None:
    save_state(tmp_path, "run", some_state())
    found = load_state(tmp_path, "run")
    expected = some_state()
    assert found is not None
    for name, tensor in expected.model.items():
        assert torch.equal(found.model[name], tensor)
    assert found.optimizer == expected.optimizer
    for name in ("step", "seconds", "rows", "definitions", "sessions"):
        assert getattr(found, name) == getattr(expected, name), name


def test_there_is_one_state_at_a_time(tmp_path: Path) -> None:
    assert load_state(tmp_path, "run") is None
    for step in (3, 7):
        save_state(tmp_path, "run", some_state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [TENSORS, "state.json"]
    found = load_state(tmp_path, "run")
    assert found is not None
    assert found.step == 7


def test_nothing_in_a_state_is_a_pickle(tmp_path: Path) -> None:
    save_state(tmp_path, "run", some_state())
    assert json.loads((tmp_path / "state.json").read_text())["format"] == "lowland-state"
    payload = (tmp_path / TENSORS).read_bytes()
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    assert len([name for name in header if name.startswith("state/")]) == 4


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (TENSORS, flip, "does not have the SHA-256 that state.json records"),
        (TENSORS, shorten, "does not have the SHA-256 that state.json records"),
        (TENSORS, Path.unlink, "cannot be read: No such file"),
        ("state.json", shorten, "is not valid JSON"),
        ("state.json", edit('"step": 7', '"step": 8'), "does not have the SHA-256"),
        ("state.json", edit("lowland-state", "other"), "is not a state of lowland"),
        ("state.json", edit('"version": 1', '"version": 2'), "has format version 2, this is 1"),
        ("state.json", lambda path: path.write_text("[]"), "is not a state of lowland"),
        ("state.json", edit('"rows"', '"rowing"'), "does not have the SHA-256"),
    ],
)
def test_damage_is_named_and_nothing_is_changed(
    tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    save_state(tmp_path, "run", some_state())
    damage(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as caught:
        load_state(tmp_path, "run")
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, "other", some_state())
    with pytest.raises(InputError, match=r"state.json belongs to run other"):
        load_state(tmp_path, "run")
