"""Every example runs, and says what it should."""

from __future__ import annotations

import contextlib
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"

NEEDS = {
    "accelerate_loop": ["accelerate", "sklearn"],
    "ema_and_schedules": ["sklearn"],
    "fabric_loop": ["lightning_fabric", "sklearn"],
    "hf_trainer": ["transformers", "accelerate"],
    "lightning_trainer": ["pytorch_lightning", "sklearn"],
    "lora": ["peft", "sklearn"],
    "plain_loop": ["sklearn"],
    "two_optimizers_gan": [],
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Examples seed the global generators, and Accelerate keeps settings for the process."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    with contextlib.suppress(ImportError):
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state()
        GradientState._reset_state()


def run(name: str) -> Any:
    for library in NEEDS[name]:
        pytest.importorskip(library)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def test_none_is_left_out_and_each_is_short() -> None:
    found = {path.stem: path.read_text("utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(found) == set(NEEDS)
    for name, text in found.items():
        assert len(text.splitlines()) <= 75, name


@pytest.mark.parametrize(
    "name",
    ["accelerate_loop", "ema_and_schedules", "fabric_loop", "lightning_trainer", "plain_loop"],
)
def test_digits_are_learnt(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(name)
    for accuracy in found.values() if isinstance(found, dict) else [found]:
        assert accuracy > 0.8  # ten classes
        assert f"{accuracy:.3f}" in capsys.readouterr().out or isinstance(found, dict)


def test_trainer_learns_to_count(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = run("hf_trainer")
    assert last < first - 0.3
    assert "sharpness" in capsys.readouterr().out


def test_adapters_learn_mirrored_digits(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = run("lora")
    assert after > before + 0.3
    assert "of 5618 parameters were trained" in capsys.readouterr().out


def test_the_generator_comes_near_the_circle() -> None:
    before, after = run("two_optimizers_gan")
    assert after < before
