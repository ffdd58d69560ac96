"""What a recipe can change beside the method: start, labels, depth, held-out share, other data."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data import load
from lowland.measure import capture, knn_error
from lowland.models import create
from lowland.train import Recipe, read_history, read_weights, run
from lowland.train.noise import noisy_labels
from lowland.train.plan import make_plan
from lowland.train.trainer import Trainer, build_model

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")
Make = Callable[..., Recipe]


@pytest.mark.parametrize(("classes", "share"), [(2, 0.3), (10, 0.1)])
def test_wrong_labels_are_others_at_the_asked_rate(classes: int, share: float) -> None:
    labels = torch.arange(40_000) % classes
    noisy = noisy_labels(
        labels, classes=classes, share=share, generator=generator("cpu", 0, "test")
    )
    wrong = noisy != labels
    expected = 40_000 * share
    assert abs(float(wrong.sum()) - expected) < 5 * (expected * (1 - share)) ** 0.5
    shifts = ((noisy - labels) % classes)[wrong].bincount(minlength=classes)
    assert shifts[0] == 0
    assert (shifts[1:] / shifts.sum() - 1 / (classes - 1)).abs().max() < 0.02


def test_no_noise_changes_nothing() -> None:
    labels = torch.arange(100) % 3
    same = noisy_labels(labels, classes=3, share=0.0, generator=generator("cpu", 0))
    assert torch.equal(same, labels)


def test_every_update_draws_its_own_noise_and_resumes_with_it(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def record(self: Trainer, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return torch.zeros(())

    monkeypatch.setattr(Trainer, "_step_on_closure", record)
    plan = make_plan(tiny(label_noise=0.4))
    images, labels = plan.data.train.images[:50], plan.data.train.labels[:50]
    for step in (0, 1, 1):
        Trainer(plan).update(step, images, labels, torch.arange(50))
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert 5 < int((seen[0] != labels).sum()) < 35
    Trainer(make_plan(tiny())).update(0, images, labels, torch.arange(50))
    assert seen[3] is labels


def test_initial_weights_are_scaled_after_the_same_draws(tiny: Make) -> None:
    plain, small = (build_model(tiny(init_scale=scale), (1, 8, 8), 10) for scale in (1.0, 0.25))
    for (name, a), b in zip(plain.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(b, 0.25 * a if a.ndim > 1 else a), name


def test_depth_reaches_the_network(tiny: Make) -> None:
    assert [n for n, _ in build_model(tiny(depth=4), (1, 8, 8), 10).named_children()][1:5] == [
        f"block{i}" for i in range(1, 5)
    ]
    torch.manual_seed(0)
    with torch.random.fork_rng():
        usual = create("mlp", shape=(1, 8, 8), classes=10, width=8)
    assert {n for n, _ in build_model(tiny(), (1, 8, 8), 10).named_parameters()} == {
        n for n, _ in usual.named_parameters()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_scale": 0.0}, "init_scale must be above 0, not 0"),
        ({"label_noise": 1.0}, "label_noise is a probability below 1, not 1"),
        ({"label_noise": -0.1}, "label_noise must be 0 or more"),
        ({"depth": 0}, "depth must be 1 or more, not 0"),
        ({"transfer_data": ["digit"]}, "unknown data set 'digit': did you mean 'digits'?"),
        ({"transfer_data": "digits"}, "transfer_data must be a list"),
    ],
)
def test_unusable_values_are_one_line(tiny: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_held_out_share_is_that_of_the_run(tiny: Make) -> None:
    plan = make_plan(tiny(limit=None, held_out=0.01))
    assert (len(plan.data.train), len(plan.data.validation)) == (1424, 14)
    assert plan.run != make_plan(tiny(limit=None)).run


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., str]:
    """Write 150 grey images of 3 classes that brightness tells, of a size."""

    def write(size: int = 8, colour: bool = False, n: int = 150) -> str:
        rows, draws = [], np.random.default_rng(0)
        for i in range(n):
            pixels = draws.integers(0, 20, (size, size)) + 80 * (i % 3)
            picture = Image.fromarray(pixels.astype(np.uint8)).convert("RGB" if colour else "L")
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            rows.append(buffer.getvalue())
        path = tmp_path / f"other{size}{colour}{n}.parquet"
        pq.write_table(pa.table({"image": rows, "label": [i % 3 for i in range(n)]}), path)
        return f"parquet:{path}"

    return write


def test_neighbours_on_another_data_set_at_its_own_size(
    tiny: Make, other: Callable[..., str], tmp_path: Path
) -> None:
    names = [other(12), "digits"]
    recipe = tiny(
        model="preact-resnet-small", width=2, rank_block="block3", transfer_data=names, epochs=1
    )
    plan = make_plan(recipe)
    assert [o.name for o in plan.others] == names
    assert recipe.files == (names[0].partition(":")[2],)
    folder = run(recipe, tmp_path / "runs")
    rows = read_history(folder / "history.parquet")
    for split in ("validation", "test"):
        assert all(0 <= row[f"knn-transfer-2/{split}/block3"] <= 1 for row in rows)
    network = build_model(recipe, plan.data.shape, plan.data.classes).eval()
    network.load_state_dict(read_weights(folder))
    apart = plan.others[0]
    features = [
        capture(network, [plan.data.normalise(split.images)], "block3")["block3"]
        for split in (apart.train, apart.test)
    ]
    # the first 40 images to be found among, with the statistics of the images trained on
    expected = knn_error(
        features[0][:40], apart.train.labels[:40], features[1], apart.test.labels, k=10
    )
    assert rows[-1]["knn-transfer-1/test/block3"] == expected.value
    elsewhere = tmp_path / "moved.parquet"
    elsewhere.write_bytes(Path(names[0].partition(":")[2]).read_bytes())
    moved = tiny(**{**recipe.to_dict(), "transfer_data": [f"parquet:{elsewhere}", "digits"]})
    assert make_plan(moved).run == plan.run, "where data lie makes no difference"


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"size": 12}, {}, "are 1x12x12, those trained on 1x8x8, and mlp trained on these"),
        ({"colour": True}, {"model": "resnet-small"}, "are 3x8x8, those trained on 1x8x8"),
        ({"n": 12}, {}, "9 training images of parquet"),
    ],
)
def test_other_data_that_do_not_fit(
    tiny: Make,
    other: Callable[..., str],
    options: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    recipe = tiny(transfer_data=[other(**options)], rank_block="block1", **changes)
    with pytest.raises(InputError, match=message):
        make_plan(recipe)


def test_ranks_of_train_and_test_are_of_as_many_images(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(limit=None, epochs=1, rank_examples=600, width=16, rank_block="block1")
    last = read_history(run(recipe, tmp_path) / "history.parquet")[-1]
    assert len(load("digits").test) == 359
    whole, as_many = (
        last[f"rank/{split}/block1/unit/0.99"] for split in ("train", "train-as-test")
    )
    assert 1 <= as_many <= whole
    fewer = tiny(limit=None, epochs=1, rank_examples=359, width=16, rank_block="block1")
    row = read_history(run(fewer, tmp_path) / "history.parquet")[-1]
    assert row["rank/train/block1/unit/0.99"] == as_many, "the same first 359 images"
    assert not any(name.startswith("rank/train-as-test") for name in row)
