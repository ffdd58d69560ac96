"""Names of data sets, and the digits."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch

from lowland.core.errors import InputError
from lowland.data import DATASETS, load


def test_digits_are_split_once_and_for_all() -> None:
    data = load("digits")
    assert (data.shape, data.classes, data.augmentation) == ((1, 8, 8), 10, "shift")
    assert data.source["sizes"] == {"train": 1078, "validation": 360, "test": 359}
    rows = torch.cat([split.index for split in data.splits.values()])
    assert sorted(rows.tolist()) == list(range(1797))
    digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    assert digest == "7a5af3cc66d8682c2b41db990a885036450de7c211d4a658211c31f172754394"
    assert load("digits").fingerprint == data.fingerprint
    assert load("digits", seed=1).fingerprint != data.fingerprint


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for split in load("digits").splits.values():
        assert (images[split.index] == split.images.flatten(1).numpy()).all()
        assert (labels[split.index] == split.labels.numpy()).all()
        shares = split.labels.bincount() / len(split)
        assert (shares - 0.1).abs().max() < 0.005


def test_labels_then_limit() -> None:
    data = load("digits", labels=[7, 1, 4], limit=30)
    assert data.classes == 3
    assert data.train.labels.bincount().tolist() == [10, 10, 10]
    assert data.source["labels"] == [7, 1, 4]
    assert data.source["limit"] == 30


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit': did you mean 'digits'?"),
        ("digits:x", "unknown data set 'digits:x': did you mean 'digits'?"),
        ("parquet", "unknown data set 'parquet': did you mean 'parquet:PATH'?"),
        ("fashion_mnist", "did you mean 'fashion-mnist'?"),
        ("", "unknown data set ''"),
        ("parquet:", "data set 'parquet:' lacks its path: parquet:PATH"),
        ("fashion-mnist:", "data set 'fashion-mnist:' lacks its folder"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module"), [("digits", "sklearn.datasets"), ("parquet:x", "pyarrow")]
)
def test_a_missing_package_is_named(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    (tmp_path / "x").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs {module}: pip install 'lowland\[study\]'"):
        load(name)


def test_importing_data_and_models_imports_no_reader() -> None:
    code = (
        "import sys, lowland.data, lowland.models;"
        "print([m for m in ('sklearn', 'pyarrow', 'PIL', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_says_what_it_is() -> None:
    assert {name.partition(":")[0] for name in DATASETS} == {"digits", "fashion-mnist", "parquet"}
    assert all(DATASETS.values())
