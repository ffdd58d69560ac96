"""A run from end to end, without disturbances."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import models
from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.data import ImageData, batches, load
from lowland.measure import feature_rank
from lowland.train import Progress, Recipe, read_history, read_record, read_weights, run
from lowland.train.directory import HISTORY
from lowland.train.plan import make_plan, run_id

Make = Callable[..., Recipe]
FINGERPRINTS = ["0" * 64]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(
        data="digits",
        labels=(0, 1, 2, 3, 4),
        transfer_labels=(5, 6, 7, 8, 9),
        limit=100,
        model="preact-resnet-small",
        width=2,
        batch_size=20,
        epochs=2,
        evaluations=2,
        rank_examples=60,
        rho=0.1,
        schedule="step",
        variances=(0.99, 0.9),
        device="cpu",
    )
    return run(recipe, tmp_path_factory.mktemp("runs"))


def test_the_directory_holds_record_history_and_weights(finished: Path) -> None:
    names = sorted(path.name for path in finished.iterdir())
    assert names == [".lock", "history.parquet", "run.json", "weights.safetensors"]
    record = read_record(finished)
    assert record["status"] == "finished"
    assert record["run"] == finished.name
    assert record["steps"] == 10
    assert record["data"]["fingerprint"] == load("digits", labels=range(5), limit=100).fingerprint
    assert Recipe.from_mapping(record["recipe"]).rho == 0.1
    assert [session["step"] for session in record["sessions"]] == [0]
    assert record["sessions"][0]["torch"] == torch.__version__
    assert record["sessions"][0]["threads"] == 1


def test_every_evaluation_is_a_row(finished: Path) -> None:
    rows = read_history(finished / HISTORY)
    assert [row["step"] for row in rows] == [0, 5, 10]
    assert [row["epoch"] for row in rows] == [0.0, 1.0, 2.0]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.005, 0.0005])
    assert {row["rho"] for row in rows} == {0.1}
    assert {row["skipped"] for row in rows} == {row["diverged"] for row in rows} == {0}


def test_the_last_row_has_every_column_and_each_is_defined(finished: Path) -> None:
    rows = read_history(finished / HISTORY)
    splits = ("train", "validation", "test")
    expected = {"step", "epoch", "lr", "rho", "skipped", "diverged", "weight-norm"}
    expected |= {f"{split}/{what}" for split in splits for what in ("loss", "error")}
    expected |= {
        f"rank/{split}/block{block}/{center}/{variance}"
        for split in ("train", "test")
        for block in (1, 2, 3)
        for center in ("unit", "example")
        for variance in ("0.99", "0.9")
    }
    expected |= {f"active-units/{s}/block{b}" for s in ("train", "test") for b in (1, 2, 3)}
    expected |= {f"knn-{k}/{s}/block2" for k in ("trained", "transfer") for s in splits[1:]}
    expected |= {"sharpness/one-step", "seconds/train", "seconds/evaluate"}
    assert set(rows[-1]) == expected
    start_lacks = {name for name in expected if name.startswith(("knn-trained", "sharpness"))}
    assert set(rows[0]) == expected - start_lacks
    always = {name for name in expected if name.endswith(("/loss", "/error"))}
    always |= {f"rank/train/block2/unit/{variance}" for variance in ("0.99", "0.9")}
    assert always < set(rows[1])
    assert not any("block1" in name or "example" in name for name in rows[1])
    definitions = read_record(finished)["definitions"]
    assert {name for name in expected if "/" in name and "seconds" not in name} < set(definitions)


def test_the_weights_are_those_that_the_last_row_measured(finished: Path) -> None:
    """Measured again by hand: own forward pass, own normalisation, hook on the block."""
    data = load("digits", labels=range(5), limit=100)
    model = models.create("preact-resnet-small", shape=data.shape, classes=5, width=2)
    model.load_state_dict(read_weights(finished))
    model.eval()
    images = (data.train.images[:60].float() - data.mean[0]) / data.std[0]
    caught: list[torch.Tensor] = []
    model.get_submodule("block2").register_forward_hook(lambda *args: caught.append(args[2]))
    with torch.no_grad():
        outputs = model(images)
    last = read_history(finished / HISTORY)[-1]
    labels = data.train.labels[:60]
    assert last["train/loss"] == pytest.approx(cross_entropy(outputs, labels).item(), rel=1e-5)
    assert last["train/error"] == pytest.approx((outputs.argmax(1) != labels).double().mean())
    expected = feature_rank(caught[0], 0.9, "example").value
    assert last["rank/train/block2/example/0.9"] == expected
    squares = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    assert last["weight-norm"] == pytest.approx(squares**0.5)


def test_transfer_images_are_normalised_as_the_training_images(tiny: Make, tmp_path: Path) -> None:
    """With an untrained, linear-in-pixels first block the features can be written down."""
    recipe = tiny(labels=[0, 1], transfer_labels=[2, 3], lr=0.0, rank_block="block1")
    folder = run(recipe, tmp_path)
    data, other = load("digits", labels=[0, 1], limit=60), load("digits", labels=[2, 3])
    weights = read_weights(folder)

    def features(images: torch.Tensor) -> torch.Tensor:
        pixels = ((images[:40].float() - data.mean[0]) / data.std[0]).flatten(1)
        hidden = pixels @ weights["block1.0.weight"].T + weights["block1.0.bias"]
        return nn.functional.normalize(hidden.relu().double())

    near = (features(other.test.images) @ features(other.train.images).T).topk(10).indices
    votes = other.train.labels[:40][near].double().mean(1)
    wrong = (votes > 0.5).long() != other.test.labels[:40]
    found = read_history(folder / HISTORY)[-1]["knn-transfer/test/block1"]
    assert found == pytest.approx(float(wrong.double().mean()))


def test_plain_training_is_the_loop_one_would_write(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(method="none", rho=0.0, schedule="cosine", weight_decay=1e-3, seed=5)
    folder = run(recipe, tmp_path)
    data = load("digits", limit=60)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(5, "initialisation"))
        model = models.create("mlp", shape=data.shape, classes=10, width=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for epoch in range(2):
        for images, labels in batches(
            data.train, batch_size=20, seed=5, epoch=epoch, shuffle=True, augmentation="shift"
        ):
            optimizer.zero_grad()
            cross_entropy(model(data.normalise(images)), labels).backward()
            optimizer.step()
            schedule.step()
    found = read_weights(folder)
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-5, atol=1e-7)


def test_the_seed_decides_everything(tiny: Make, tmp_path: Path, result: Any) -> None:
    first = run(tiny(), tmp_path / "a")
    torch.manual_seed(123)
    assert result(run(tiny(), tmp_path / "b")) == result(first)
    other = run(tiny(seed=1), tmp_path / "a")
    assert other.name != first.name
    assert result(other)[0] != result(first)[0]
    assert read_record(first)["data"] == read_record(other)["data"]


def test_what_is_measured_does_not_change_what_is_trained(tiny: Make, tmp_path: Path) -> None:
    weights = [
        read_weights(run(tiny(evaluations=count), tmp_path))["head.weight"] for count in (1, 6)
    ]
    assert torch.equal(*weights)


def test_threads_and_generators_are_as_before(tiny: Make, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    seen: list[int] = []
    before = torch.get_rng_state()
    run(tiny(threads=2), tmp_path, on_progress=lambda _: seen.append(torch.get_num_threads()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert set(seen[:-1]) == {2}


def test_a_finished_run_is_found_and_left_alone(tiny: Make, tmp_path: Path) -> None:
    folder = run(tiny(), tmp_path)

    def snapshot() -> dict[Path, tuple[int, bytes | None]]:
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in (tmp_path, folder, *folder.iterdir())
        }

    before = snapshot()
    news: list[Progress] = []
    assert run(tiny(), tmp_path, on_progress=news.append) == folder
    assert snapshot() == before
    assert news == [Progress(run=folder.name, step=6, steps=6, finished=True)]


def test_progress_tells_start_every_evaluation_and_the_end(tiny: Make, tmp_path: Path) -> None:
    news: list[Progress] = []
    folder = run(tiny(), tmp_path, on_progress=news.append)
    assert (news[0].step, news[0].row) == (0, None)
    rows = [item.row for item in news if item.row is not None]
    assert rows == read_history(folder / HISTORY)
    assert [item.finished for item in news] == [False] * (len(news) - 1) + [True]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "looksam", "method_options": {"k": 2}},
        {"method": "f-sam"},
        {"method": "asam"},
        {"method": "m-sam", "method_options": {"m": 5}},
        {"method": "sam-on", "model": "preact-resnet-small", "width": 2, "rank_block": "block3"},
        {"base": "adamw", "momentum": 0.0},
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "bf16-mixed", "method": "m-sam", "method_options": {"m": 5}},
    ],
)
def test_methods_bases_and_precisions_train(
    tiny: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = run(tiny(epochs=8, lr=0.02, augment=False, **changes), tmp_path)
    rows = read_history(folder / HISTORY)
    assert float(rows[-1]["train/loss"] or 0) < float(rows[0]["train/loss"] or 0)
    assert rows[-1]["skipped"] == 0


def test_a_run_whose_loss_is_not_finite_ends_there_and_says_so(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(lr=1e30, method="none", rho=0.0, evaluations=6)
    folder = run(recipe, tmp_path)
    rows = read_history(folder / HISTORY)
    assert [row["diverged"] for row in rows] == [0, 1]
    assert "rank/train/block2/unit/0.99" not in rows[-1]
    assert read_record(folder)["diverged"] is True
    before = (folder / HISTORY).stat().st_mtime_ns
    assert run(recipe, tmp_path) == folder
    assert (folder / HISTORY).stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore:.*not finite.*")
def test_skipped_steps_are_counted(tiny: Make, tmp_path: Path) -> None:
    # ρ of this size makes the perturbed loss overflow, and every step is skipped
    rows = read_history(run(tiny(rho=1e30), tmp_path) / HISTORY)
    assert [row["skipped"] for row in rows] == [0, 3, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_block": "block7"}, "unknown block 'block7': did you mean"),
        ({"rank_blocks": "layer*"}, "unknown block 'layer"),
        ({"method_options": {"gamma": 3}}, "gamma"),
    ],
)
def test_a_recipe_that_cannot_run_leaves_nothing(
    tiny: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(tiny(**changes), tmp_path)
    assert message in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 61}, "make no whole batch of 61"),
        ({"labels": [0, 17]}, "has no label 17"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_made(
    tiny: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tiny(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lightning_fabric", "pyarrow", "safetensors"])
def test_a_missing_package_is_named(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted)
    )
    with pytest.raises(InputError, match=rf"training needs {name}: pip install 'lowland\[study\]'"):
        run(tiny(), tmp_path)


def test_a_missing_gpu_is_named(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda is not there"):
        run(tiny(device="cuda"), tmp_path)
    assert make_plan(tiny(device="auto")).device == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_examples": 9}, "rank_examples=9 training images are too few"),
        ({"labels": [0, 1], "limit": 9, "batch_size": 4}, "9 training images are too few"),
        (
            {"labels": [0, 1], "transfer_labels": [2, 3], "rank_examples": 9},
            "rank_examples=9 training images are too few",
        ),
    ],
)
def test_too_few_images_for_nearest_neighbours_are_refused_before_the_run(
    tiny: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """The last evaluation used to fail, and left a directory of a run that seemed to go on."""
    with pytest.raises(InputError, match=message) as caught:
        run(tiny(**changes), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_fewest_images_for_nearest_neighbours_are_enough(tiny: Make, tmp_path: Path) -> None:
    run(tiny(rank_examples=10, epochs=1), tmp_path)


def test_too_few_images_of_classes_left_out_are_named(tiny: Make, monkeypatch: Any) -> None:
    def short(name: str, *, labels: Any, limit: int | None = None, **_: Any) -> ImageData:
        return load(name, labels=labels, limit=limit or 9)

    monkeypatch.setattr("lowland.train.plan.load", short)
    with pytest.raises(InputError, match="9 training images of transfer_labels are too few"):
        make_plan(tiny(labels=[0, 1], transfer_labels=[2, 3]))


def test_the_name_follows_what_determines_the_run(tiny: Make, monkeypatch: Any) -> None:
    def name(recipe: Recipe, fingerprint: str = "0", device: str = "cpu") -> str:
        return run_id(recipe, fingerprints=[fingerprint], device=device)

    base = name(tiny())
    assert name(tiny()) == base
    assert name(tiny(seed=1)) != base
    assert name(tiny(evaluations=3)) != base
    assert name(tiny(), "1") != base
    assert name(tiny(), device="cuda") != base
    assert name(tiny(device="auto")) == base
    assert name(tiny(data="parquet:a")) == name(tiny(data="parquet:b"))
    monkeypatch.setattr(torch, "__version__", "0")
    assert name(tiny()) != base
    monkeypatch.undo()
    monkeypatch.setattr("lowland.train.plan.source_hash", lambda parts: "other code")
    assert name(tiny()) != base


def test_run_json_is_strict_json(finished: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((finished / "run.json").read_text(), parse_constant=refuse)
