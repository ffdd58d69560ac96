"""Contrastive runs: what an update is, what is measured, and that they resume."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed, generator
from lowland.measure import feature_rank, retrieval_error
from lowland.models import TwoTowers, info_nce
from lowland.optim import SAM
from lowland.train import (
    ContrastiveRecipe,
    check_any,
    read_history,
    read_record,
    read_weights,
    run_any,
)
from lowland.train.contrastive.plan import make_plan
from lowland.train.contrastive.work import build

TINY: dict[str, Any] = {
    "limit": 64,
    "image": "mlp",
    "image_options": {"width": 8},
    "text_options": {"width": 8, "depth": 1, "heads": 2},
    "dimension": 8,
    "batch_size": 16,
    "rank_examples": 32,
    "epochs": 2,
    "evaluations": 2,
    "method": "sam",
    "rho": 0.1,
    "lr": 1e-2,
    "device": "cpu",
}
"""Eight updates of 16 pairs, evaluated after 0, 4 and 8."""


def tiny(**changes: Any) -> ContrastiveRecipe:
    return ContrastiveRecipe.from_mapping({**TINY, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_any(tiny(), tmp_path_factory.mktemp("runs"))


def towers_of(folder: Path, recipe: ContrastiveRecipe) -> tuple[Any, TwoTowers, Any]:
    """The finished towers, as the run left them."""
    images, module, texts = build(make_plan(recipe))
    module.load_state_dict(read_weights(folder))
    return images, module.eval(), texts


def embedded(folder: Path, recipe: ContrastiveRecipe, name: str, n: int | None = None) -> Any:
    images, module, texts = towers_of(folder, recipe)
    data = make_plan(recipe).data
    split = data.splits[name]
    rows = torch.arange(len(split) if n is None else n)
    with torch.no_grad():
        inputs = images.inputs(split.images[rows], data.largest)
        return module.embed(inputs, *texts[name].first(rows))


def by_hand(recipe: ContrastiveRecipe) -> dict[str, torch.Tensor]:
    """The same training as a plain loop."""
    plan = make_plan(recipe)
    images, module, texts = build(plan)
    if recipe.method == "none":
        optimizer: Any = torch.optim.Adam(module.parameters(), lr=recipe.lr)
    else:
        optimizer = SAM(
            module.parameters(), torch.optim.Adam, lr=recipe.lr, rho=recipe.rho, model=module
        )
    train, step = plan.data.train, 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(64, generator=generator("cpu", recipe.seed, "order", epoch))
        for k in range(4):
            rows = order[16 * k : 16 * (k + 1)]
            draws = generator("cpu", recipe.seed, "caption", epoch, k)
            shares = torch.rand(16, generator=draws, dtype=torch.float64)
            chosen = [int(5 * share) for share in shares]
            tokens, present = (
                torch.stack([t[5 * int(row) + c] for row, c in zip(rows, chosen, strict=True)])
                for t in texts["train"].tensors
            )
            inputs = images.inputs(train.images[rows], plan.data.largest)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * (0.5 * (1 + math.cos(math.pi * step / 8)))
            torch.manual_seed(derived_seed(recipe.seed, "update", step))

            def closure(inputs: Any = inputs, tokens: Any = tokens, present: Any = present) -> Any:
                optimizer.zero_grad()
                loss = info_nce(*module(inputs, tokens, present), recipe.temperature)
                loss.backward()
                return loss

            optimizer.step(closure)
            step += 1
    return module.state_dict()


@pytest.mark.parametrize("method", ["none", "sam"])
def test_a_run_is_the_loop_that_anyone_would_write(method: str, tmp_path: Path) -> None:
    recipe = tiny(method=method, rho=0.1 if method == "sam" else 0.0, threads=1)
    weights = read_weights(run_any(recipe, tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = by_hand(recipe)
    finally:
        torch.set_num_threads(threads)
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_the_record_says_what_was_done(finished: Path) -> None:
    record = read_record(finished)
    assert record["status"] == "finished"
    assert record["kind"] == "contrastive"
    assert (record["steps"], record["steps_per_epoch"]) == (8, 4)
    assert ContrastiveRecipe.from_mapping(record["recipe"]) == tiny()
    assert record["data"]["source"]["captions"].startswith("defined")
    rows = read_history(finished / "history.parquet")
    assert [row["step"] for row in rows] == [0, 4, 8]
    assert set(record["definitions"]) >= {k for k in rows[-1] if k.startswith(("rank/", "test/"))}


def test_columns_are_those_of_the_instruments(finished: Path) -> None:
    row = read_history(finished / "history.parquet")[-1]
    test = embedded(finished, tiny(), "test")
    inside = retrieval_error(*test.normalised, among="batches", batch=16)
    among_all = retrieval_error(*test.normalised)
    assert row["test/image-to-text"] == inside.image_to_text
    assert row["test/text-to-image"] == inside.text_to_image
    assert row["test/error"] == inside.value
    assert row["test/all/text-to-image"] == among_all.text_to_image
    whole = len(test.normalised[0]) // 16
    losses = [
        float(info_nce(*(part[16 * k : 16 * (k + 1)].double() for part in test.normalised), 0.05))
        for k in range(whole)
    ]
    assert row["test/loss"] == pytest.approx(sum(losses) / whole, rel=1e-6)
    for split, n in (("train", 32), ("test", 32)):
        made = embedded(finished, tiny(), split, n)
        for place in ("features", "projected", "normalised"):
            for tower, features in zip(("image", "text"), getattr(made, place), strict=True):
                for center in ("unit", "example"):
                    found = feature_rank(features, (0.99, 0.85), center)
                    for share, rank in found.ranks.items():
                        assert row[f"rank/{split}/{tower}/{place}/{center}/{share:g}"] == rank
    middle = read_history(finished / "history.parquet")[1]
    assert {name.split("/")[3] for name in middle if name.startswith("rank/")} == {"normalised"}


def test_a_finished_run_is_found_and_left_alone(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert run_any(tiny(), finished.parent) == finished
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


class StoppedError(Exception):
    """Raised by the progress callback."""


@pytest.mark.parametrize("changes", [{}, {"base": "published-adam", "schedule": "constant"}])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    changes: dict[str, Any], finished: Path, tmp_path: Path, result: Callable[[Path], Any]
) -> None:
    recipe = tiny(**changes)
    expected = result(finished if not changes else run_any(recipe, tmp_path / "whole"))

    def stop(progress: Any) -> None:
        if progress.row is not None and progress.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_any(recipe, tmp_path / "stopped", on_progress=stop, checkpoint_seconds=0.0)
    assert result(run_any(recipe, tmp_path / "stopped", checkpoint_seconds=0.0)) == expected


def test_every_setting_names_another_run() -> None:
    changes = [
        {"rho": 0.2},
        {"seed": 1},
        {"bottleneck": 2},
        {"freeze_text": True},
        {"pool": "mean"},
    ]
    names = {make_plan(tiny(**change)).run for change in [{}, *changes]}
    assert len(names) == len(changes) + 1


class TestText:
    def test_a_frozen_encoder_is_no_part_of_the_run(self, tmp_path: Path) -> None:
        recipe = tiny(freeze_text=True)
        folder = run_any(recipe, tmp_path)
        names = set(read_weights(folder))
        assert not any(name.startswith("text.") for name in names)
        assert {"text_head.weight", "text_head.bias"} <= names
        rows = read_history(folder / "history.parquet")
        column = "rank/test/text/features/unit/0.99"
        assert rows[0][column] == rows[-1][column]

    def test_frozen_features_are_the_encoders(self) -> None:
        frozen, tuned = tiny(freeze_text=True, seed=3), tiny(seed=0)
        made = build(make_plan(frozen))[2]["train"]
        # frozen, it starts from seed 0, whichever the run's
        _, module, texts = build(make_plan(tuned))
        with torch.no_grad():
            expected = module.text.eval()(*texts["train"].tensors)
        assert torch.allclose(made.tensors[0], expected, atol=1e-6)
        assert torch.equal(made.start, texts["train"].start)

    def test_pretraining_is_the_same_for_all_seeds_and_learns(self) -> None:
        one, other = (build(make_plan(tiny(pretraining=30, seed=s)))[1].text for s in (0, 1))
        plain, longer = (build(make_plan(tiny(seed=0)))[1].text for _ in range(2))
        weight = "embedding.weight"
        assert torch.equal(one.get_parameter(weight), other.get_parameter(weight))
        assert not torch.equal(one.get_parameter(weight), plain.get_parameter(weight))
        assert torch.equal(longer.get_parameter(weight), plain.get_parameter(weight))

    def test_pretraining_does_not_depend_on_what_ran_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Padding to all positions draws other masks: that is another pretraining."""
        from lowland.train.contrastive import own_text

        def weights(pool: str) -> torch.Tensor:
            recipe = tiny(pretraining=3, pool=pool, max_tokens=24)
            return own_text.own_encoder(recipe, make_plan(recipe).data, trial=False)[0].positions

        alone = weights("positions").clone()
        monkeypatch.setattr(own_text, "_PRETRAINED", own_text.Kept(2))
        weights("mean")
        assert torch.equal(weights("positions"), alone)

    def test_captions_as_they_were_published(self) -> None:
        plain, published = (
            build(make_plan(tiny(captions=form, text="characters")))[2]["train"].tensors[1]
            for form in ("plain", "published")
        )
        more = published.sum(1) - plain.sum(1)
        assert ((more == 3) | (published.sum(1) == 32)).all()  # b, and two quotes

    def test_every_caption_is_drawn_and_the_first_is_evaluated(self) -> None:
        _, _, texts = build(make_plan(tiny()))
        train, rows = texts["train"], torch.arange(64)
        assert torch.equal(train.first(rows)[0], train.tensors[0][::5])
        seen = [set[int]() for _ in rows]
        for draw in range(60):
            drawn = train.drawn(rows, generator("cpu", "test", draw))[0]
            for row, tokens in enumerate(drawn):
                own = train.tensors[0][5 * row : 5 * row + 5]
                (place,) = [k for k in range(5) if torch.equal(own[k], tokens)]
                seen[row].add(place)
        assert all(places == set(range(5)) for places in seen)
        assert len(texts["test"].tensors[0]) == len(texts["test"].start)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"image": "resnet"}, "unknown encoder of images 'resnet'"),
    "text": ({"text": "word"}, r"unknown encoder of texts 'word': did you mean 'words'\?"),
    "pool": ({"pool": "last"}, "unknown pool 'last'"),
    "data": ({"data": "digits"}, r"did you mean 'digits-captions'\?"),
    "one pair": ({"batch_size": 1}, "batch_size must be 2 or more"),
    "few ranked": ({"rank_examples": 8}, "rank_examples must be 16 or more"),
    "temperature": ({"temperature": 0.0}, "temperature must be above 0"),
    "schedule": ({"base": "published-adam"}, "set schedule=constant"),
    "federated": ({"method": "fedsam"}, "trains in rounds"),
    "pretrained hub": ({"text": "hf:x", "pretraining": 3}, "text=hf:x|hf:x comes as it is"),
    "setting": ({"dimensions": 3}, r"did you mean 'dimension'\?"),
    "variance": ({"variances": (1.5,)}, "shares in"),
    "bottleneck": ({"bottleneck": 0}, "bottleneck must be 1 or more"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_makes_no_sense_is_refused_at_once(fault: str) -> None:
    changes, message = REFUSED[fault]
    with pytest.raises(InputError, match=message):
        tiny(**changes)


LATER: dict[str, tuple[dict[str, Any], str]] = {
    "patch": ({"image": "vit", "image_options": {"patch": 3}}, "images are 8x8, patches 3"),
    "option": ({"image": "vit", "image_options": {"dept": 3}}, r"did you mean 'depth'\?"),
    "text option": ({"text_options": {"layers": 3}}, "unknown option of text=words 'layers'"),
    "zero depth": ({"text_options": {"depth": 0}}, "depth must be a whole number from 1"),
    "m-sam": ({"method": "m-sam"}, "needs more than the loss of a batch"),
    "last layer": ({"method": "last-layer-sam"}, "needs more than the loss of a batch"),
    "esam": ({"method": "esam"}, "needs more than the loss of a batch"),
    "mup2": ({"method": "mup2"}, "method mup2 needs more than the loss of a batch"),
    "n-sam": ({"method": "n-sam"}, "needs more than the loss of a batch"),
    "no batch": ({"batch_size": 100, "rank_examples": 100}, "use batch_size=64 or less"),
    "test batch": (
        {"batch_size": 360, "limit": 400, "rank_examples": 400},
        "has 359 test pairs, and retrieval is measured in batches of 360: use batch_size=359",
    ),
    "folder": ({"text": "hf:/none/such", "text_options": {}}, "/none/such: no such folder"),
    "file": ({"data": "parquet:/none/such"}, "no such file"),
}


@pytest.mark.parametrize("fault", LATER)
def test_what_does_not_fit_is_found_before_anything_is_written(fault: str, tmp_path: Path) -> None:
    changes, message = LATER[fault]
    with pytest.raises(InputError, match=message):
        check_any(tiny(**changes))
    with pytest.raises(InputError, match=message):
        run_any(tiny(**changes), tmp_path / "runs")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_diverged_run_says_so_and_stops(tmp_path: Path) -> None:
    recipe = tiny(method="none", rho=0.0, base="sgd", lr=1e30, schedule="constant")
    folder = run_any(recipe, tmp_path)
    assert read_record(folder)["diverged"] is True
    last = read_history(folder / "history.parquet")[-1]
    assert last["diverged"] == 1
    assert "test/error" not in last


def test_other_networks_and_precision_run(tmp_path: Path) -> None:
    for number, changes in enumerate(
        (
            {"image": "vit", "image_options": {"patch": 4, "width": 8, "depth": 1, "heads": 2}},
            {"image": "preact-resnet-small", "image_options": {"width": 2}, "pool": "positions"},
            {"precision": "64-true", "freeze_text": True, "bottleneck": 2, "pixels": "unit"},
        )
    ):
        folder = run_any(tiny(**changes, epochs=1, evaluations=1), tmp_path / str(number))
        row = read_history(folder / "history.parquet")[-1]
        assert row["diverged"] == 0
        if "bottleneck" in changes:
            assert row["rank/test/text/projected/unit/0.99"] <= 2


def test_it_is_frozen_hashable_and_round_trips() -> None:
    recipe = tiny()
    assert hash(recipe) == hash(tiny())
    assert ContrastiveRecipe.from_mapping(recipe.to_dict()) == recipe
    assert recipe.with_settings(["text_options=width=4,depth=2", "size=none"]).size is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.rho = 1.0  # type: ignore[misc]
    assert tiny(data="coco:/x").files == ("/x",)
    assert tiny(data="hf:name").files == ()


def test_dropout_is_silent() -> None:
    from lowland.train.contrastive.images import silent_dropout

    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Dropout1d(0.1))
    silent_dropout(module)
    x = torch.randn(3, 2, 2)
    assert torch.equal(module.train()(x), module.eval()(x))


class Functional(nn.Module):
    """As networks of transformers are: rates are numbers that functions get."""

    def __init__(self, paths: float = 0.1) -> None:
        super().__init__()
        self.dropout, self.layerdrop, self.drop_prob = 0.5, 0.25, paths
        self.config = types.SimpleNamespace(hidden_dropout=0.3, width=2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for rate in (self.dropout, self.layerdrop, self.drop_prob, self.config.hidden_dropout):
            x = nn.functional.dropout(x, rate, self.training)
        return x


def test_dropout_by_functions_is_silent_too() -> None:
    from lowland.train.contrastive.images import silent_dropout

    x, module = torch.ones(64, 8), nn.Sequential(Functional())
    assert not torch.equal(module.train()(x), x)
    silent_dropout(module)
    assert torch.equal(module.train()(x), x)
    assert module[0].config.width == 2.0
    asked = nn.Sequential(Functional(paths=0.5))
    silent_dropout(asked, paths=False)
    assert (asked[0].drop_prob, asked[0].dropout) == (0.5, 0.0)
