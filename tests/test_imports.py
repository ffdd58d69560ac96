"""Imports point down only, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowland

ROOT = Path(lowland.__file__).parent
ALLOWED = {
    "core": {"core"},
    "optim": {"core", "optim"},
    "measure": {"core", "measure"},
    "models": {"core", "models"},
    "data": {"core", "data"},
    "train": {"core", "optim", "measure", "models", "data", "train"},
    "report": {"core", "report"},
    "embeddings": {"core", "measure", "data", "embeddings"},
    "inspection": {"core", "optim", "measure", "models", "data", "train", "report", "inspection"},
    "integrations": {"core", "optim", "measure", "integrations"},
    "studies": {
        "core",
        "optim",
        "measure",
        "models",
        "data",
        "train",
        "report",
        "embeddings",
        "inspection",
        "studies",
    },
}
HEAVY = [
    "matplotlib",
    "plotly",
    "sklearn",
    "transformers",
    "timm",
    "faiss",
    "ray",
    "pyarrow",
    "lightning_fabric",
    "pytorch_lightning",
    "accelerate",
    "torchmetrics",
    "rich",
    "typer",
    "PIL",
    "safetensors",
    "scipy",
]


def imported(source: str) -> Iterator[str]:
    """Every name of the package that a source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "lowland")


def offences(layer: str, source: str) -> list[str]:
    """Imports that this layer may not make."""
    found = []
    for name in imported(source):
        parts = name.split(".")
        target = parts[1] if len(parts) > 1 else ""
        if target in ALLOWED and target not in ALLOWED[layer]:
            found.append(name)
        if target in ("cli", "__main__"):
            found.append(name)
    return found


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_down(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    found = {f.name: bad for f in files if (bad := offences(layer, f.read_text("utf-8")))}
    assert not found


def test_the_walk_can_fail() -> None:
    assert offences("core", "from lowland.optim import SAM") == [
        "lowland.optim",
        "lowland.optim.SAM",
    ]
    assert offences("optim", "def f():\n    import lowland.measure.features.rank")
    assert offences("measure", "from lowland import optim") == ["lowland.optim"]
    assert offences("report", "from lowland.train import run")
    assert not offences("train", "from lowland.optim import SAM")


def test_every_folder_is_a_layer() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ALLOWED)


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_stays_light() -> None:
    assert not loaded_by(
        "import lowland, lowland.measure, lowland.models, lowland.integrations"
    ).intersection(HEAVY)


def test_the_light_check_can_fail() -> None:
    assert "pyarrow" in loaded_by("import lowland, pyarrow")
