"""Names of data sets, and the digits."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

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
    assert {name.partition(":")[0] for name in DATASETS} == {
        "celeba",
        "cifar",
        "cifar-mnist-dominoes",
        "colored-digits",
        "colored-mnist",
        "digit-dominoes",
        "digits",
        "domains",
        "fashion-mnist",
        "hf",
        "imagefolder",
        "npz",
        "parquet",
        "rotated-digits",
        "rotated-mnist",
        "waterbirds",
    }
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    for name in DATASETS:
        assert f"`{name}`" in page
    assert all(DATASETS.values())


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """The last data set is kept in memory; the file's size and times tell when it is another."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "images.parquet"

    def write(brightness: int) -> None:
        rows = []
        for i in range(40):
            file = io.BytesIO()
            image.new("L", (8, 8), (brightness + i) % 255).save(file, "PNG")
            rows.append(file.getvalue())
        pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(40)]}), path)

    write(0)
    first = load(f"parquet:{path}")
    assert load(f"parquet:{path}").fingerprint == first.fingerprint
    assert load(f"parquet:{path}").train.images is first.train.images, "not decoded again"
    write(90)
    assert load(f"parquet:{path}").fingerprint != first.fingerprint
