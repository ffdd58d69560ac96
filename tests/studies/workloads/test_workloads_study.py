"""The study of workloads: its runs, the whole of it at small size, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from made_images import make_data, make_split
from made_study import InProcess

from lowland import studies
from lowland.core.errors import InputError
from lowland.data import load
from lowland.studies.workloads import STUDY
from lowland.studies.workloads.experiment import network, runs, trained
from lowland.studies.workloads.kinds import WORKLOADS
from lowland.studies.workloads.tasks import (
    LABELLED,
    GraphTask,
    ImageTask,
    judged,
    open_task,
    read_images,
)
from lowland.train.stack import Stack, StackPlan

SMALL = ("images=30", "widths=2,3", "epochs=1")


def planned(**asked: Any) -> list[Any]:
    return list(STUDY.plan(STUDY.choose(**asked)).runs)


def test_every_width_of_every_workload_over_ten_seeds() -> None:
    plan = STUDY.plan(STUDY.choose())
    groups = [run.group for run in plan.runs]
    images = [one for one in WORKLOADS.values() if not one.of_captions]
    assert set(groups) == {f"{one.name}/{width}" for one in images for width in one.widths}
    assert len(groups) == 16
    assert all(run.many and run.recipe.arguments["count"] == 10 for run in plan.runs)
    assert plan.runs[0].recipe.arguments["radii"] == (0.0, 0.01, 0.03, 0.1, 0.3)
    names = [claim.name for claim in plan.claims]
    assert names[:2] == ["lstm-gain-grows", "lstm-best-rho-grows"]
    assert names[-1] == "atari-gain-grows"
    assert len(names) == 9
    assert (
        len({run.recipe for run in planned(seeds=23, overrides=(*SMALL, "workloads=lstm,vit"))})
        == 3 * 2 * 2
    )


def test_parameters_are_those_of_the_networks() -> None:
    plan = STUDY.plan(STUDY.choose(overrides=SMALL))
    counts = {c.name: c.find.keywords["sweep"].parameters for c in plan.claims[::2][:4]}
    # 4w(8 + w + 1) + 10(w + 1), and 64w + 10w
    assert counts["lstm-gain-grows"] == {2: 118, 3: 184}
    assert counts["gcn-gain-grows"] == {2: 148, 3: 222}


def test_a_row_for_each_evaluation_and_paired_starts() -> None:
    task, fingerprint = open_task("lstm", "digits", limit=30, words=1)
    settings = {"count": 2, "radii": (0.0, 0.1), "workload": "lstm", "data": "digits"}
    settings |= {"fingerprint": fingerprint, "images": 30, "words": 1, "width": 2}
    settings |= {"lr": 0.1, "weight_decay": 0.0, "epochs": 3, "batch_size": 10, "evaluations": 2}
    rows = list(runs(seed=5, rho=0.0, **settings))
    assert len(rows) == 3 * 4
    assert [row["epoch"] for row in rows[::4]] == [0, 4 / 3, 3]
    start = {(row["rho"], row["seed"]): row for row in rows[:4]}
    for seed in (5, 6):
        plain, sam = (
            {k: v for k, v in start[rho, seed].items() if k != "rho"} for rho in (0.0, 0.1)
        )
        assert plain == pytest.approx(sam)
    assert start[0.0, 5]["train/loss"] != start[0.0, 6]["train/loss"]
    # evaluations of the first network alone, without a stack
    alone = network(task, 2, 5)
    data = read_images("digits", limit=30)
    logits = alone(data.normalise(data.validation.images))
    wrong = (logits.argmax(1) != data.validation.labels).float().mean()
    assert start[0.0, 5]["validation/error"] == pytest.approx(float(wrong), abs=1e-6)
    with pytest.raises(InputError, match="has changed since the study began"):
        list(runs(seed=5, rho=0.0, **{**settings, "fingerprint": "other"}))


def test_rows_after_a_stop_are_nothing() -> None:
    task = open_task("resnet", "digits", limit=30, words=1)[0]
    plan = StackPlan(seeds=[0, 0], lr=[0.1, 1e38], rho=0.1, epochs=3, batch_size=10)
    found = trained(task, 2, plan, per_epoch=3, evaluations=3)
    last = found[-2:]
    assert math.isfinite(last[0]["validation/error"])
    assert math.isnan(last[1]["validation/error"])
    assert math.isfinite(found[1]["validation/error"])


def test_the_graph_task_trains_on_labelled_nodes_alone() -> None:
    data = load("digits", held_out=0.8)
    task = GraphTask(data)
    assert len(task.inputs) == LABELLED * 10
    assert task.labels.bincount().tolist() == [LABELLED] * 10
    assert torch.equal(task.labels, data.train.labels[task.nodes])
    net = network(task, 4, 0)
    found = task.measure(Stack([net]))
    whole = network(task, 4, 0)
    whole.near = task._near["test"]
    wrong = whole(torch.arange(len(data.test))).argmax(1) != data.test.labels
    assert float(found["test/error"][0]) == pytest.approx(float(wrong.float().mean()))


def test_a_graph_of_fewer_nodes_than_neighbours() -> None:
    few = make_data(
        train=make_split([0, 1]),
        validation=make_split([0], first=100),
        test=make_split([0, 1], first=200),
    )
    with pytest.raises(InputError, match="5 nodes cannot have 5 neighbours each: use 6 nodes"):
        GraphTask(few)


def test_large_splits_are_judged_on_some() -> None:
    many = make_data(test=make_split([0, 1, 2] * 900, first=200))
    assert len(judged(many)["test"]) == 2_000
    assert judged(many)["train"] is many.train
    task = ImageTask(many, linear)
    assert task.judged == 6


def linear(shape: tuple[int, int, int], classes: int, width: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))


@pytest.mark.parametrize("data", ["digits", "captions:digits-captions"])
def test_the_whole_study(data: str, tmp_path: Path) -> None:
    choice = STUDY.choose(size="smoke", data=data, overrides=SMALL)
    results = studies.execute(STUDY, choice, tmp_path / "out", launcher=InProcess())
    workloads = 4 if data == "digits" else 1
    assert results["failures"] == []
    assert len(results["runs"]) == workloads * 2 * 3 * 2
    assert len(results["claims"]) == 2 * workloads + 1
    assert results["claims"][-1]["verdict"] == "no data here"
    others = {claim["verdict"] for claim in results["claims"][:-1]}
    assert others <= {"holds", "does not hold", "cannot tell"}
    assert len(results["drawings"]) == 3 + workloads
    assert len(results["tables"][0]["rows"]) == workloads * 2
    run = results["runs"][0]
    assert len(run["history"]["test/error"]) == len(run["history"]["epoch"]) > 1


def test_the_published_networks_are_recipes() -> None:
    small = ("widths=2,4", "epochs=2", "limit=60")
    plan = STUDY.plan(STUDY.choose(size="paper", overrides=(*small, "workloads=resnet")))
    recipe = plan.runs[0].recipe
    assert (recipe.model, recipe.schedule, recipe.lr) == ("resnet18", "halves", 0.1)
    assert (recipe.weight_decay, recipe.epochs, recipe.rho, recipe.method) == (5e-4, 2, 0.0, "none")
    assert {run.group for run in plan.runs} == {"resnet/2", "resnet/4"}
    assert {run.recipe.width for run in plan.runs if run.group == "resnet/4"} == {4}
    assert len(plan.runs) == 2 * 6 * 3
    own = STUDY.plan(STUDY.choose(size="paper", overrides=(*small, "lr=0.3", "workloads=vit")))
    assert (own.runs[1].recipe.model, own.runs[1].recipe.lr) == ("vit", 0.3)
    assert own.runs[1].recipe.base == "adamw"
    assert "vit, adamw, learning rate 0.3 (cosine), weight decay 0.05" in own.notes[0]
    assert "momentum 0.9, learning rate 0.1 (halves)" in plan.notes[0]
    assert "batches of 128, 2 epochs" in plan.notes[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"overrides": ("workloads=lstn",)}, "unknown workload 'lstn': did you mean 'lstm'"),
        ({"overrides": ("workloads=,",)}, "workloads is empty"),
        ({"overrides": ("workloads=captions",)}, "needs other data: use --data captions:FILE"),
        ({"overrides": ("workloads=lstm",), "data": "captions:x.parquet"}, "--data images"),
        ({"overrides": ("widths=0,4",)}, "widths must be 1 or more, not 0"),
        ({"overrides": ("widths=4",)}, "a slope needs two widths"),
        ({"overrides": ("widths=4,four",)}, "give whole numbers, as widths=8"),
        ({"overrides": ("epochs=2,3",)}, "give one whole number"),
        ({"overrides": ("width=4",)}, "unknown setting of workloads 'width': did you mean"),
        ({"overrides": ("workloads=vit", "widths=8,28")}, "3 heads do not divide 28: use"),
        ({"method": "asam"}, "with sam, not with asam"),
        ({"data": "captions:missing.parquet"}, "missing.parquet"),
        ({"size": "paper", "data": "captions:x.parquet"}, "ResNet-18 and ViT on images"),
        ({"size": "paper", "overrides": ("workloads=lstm",)}, "has no published setting"),
        ({"size": "paper", "overrides": ("widths=8",)}, "a slope needs two widths"),
        ({"size": "paper", "overrides": ("schedule=step",)}, "the study sets schedule itself"),
    ],
)
def test_what_is_refused_in_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        planned(**asked)
    assert "\n" not in str(caught.value)


def test_images_that_a_vit_cannot_cut() -> None:
    odd = make_data(
        train=make_split([0, 1, 2] * 4, shape=(1, 5, 5)),
        validation=make_split([0, 1, 2], shape=(1, 5, 5), first=100),
        test=make_split([0, 1, 2], shape=(1, 5, 5), first=200),
    )
    from lowland.studies.workloads.tasks import _vit

    with pytest.raises(InputError, match="cuts images in four squares, got 5x5"):
        ImageTask(odd, _vit).make(8)
