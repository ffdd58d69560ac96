"""The grids of the low-rank study: what is run at each size, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_images import png

from lowland import InputError, studies
from lowland.studies import Choice
from lowland.studies.low_rank.plan import _rhos as radii_of
from lowland.studies.study import Plan

STUDY = studies.get("low-rank")


def planned(**choice: object) -> Plan:
    chosen = Choice(**choice)  # type: ignore[arg-type]
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def grid(plan: Plan, group: str) -> list[tuple[float, int]]:
    return [(p.recipe.rho, p.recipe.seed) for p in plan.runs if p.group == group]


def test_default_is_two_grids_of_five_by_five_on_digits() -> None:
    plan = planned()
    for group in ("main", "transfer"):
        assert sorted(grid(plan, group)) == sorted(
            (rho, seed) for rho in (0.0, 0.05, 0.1, 0.2, 0.4) for seed in range(5)
        )
    main, transfer = (
        next(p.recipe for p in plan.runs if p.group == g) for g in ("main", "transfer")
    )
    assert (main.labels, main.data) == (None, "digits")
    assert (transfer.labels, transfer.transfer_labels) == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    # the rank depends on n, so train and test are measured on as many images
    assert main.rank_examples == 359
    assert main.rank_block == "block2"


def test_smoke_is_small() -> None:
    plan = planned(size="smoke")
    assert len(plan.runs) == 8
    assert max(p.recipe.epochs for p in plan.runs) == 2


@pytest.mark.parametrize(
    ("setting", "rhos", "lr", "momentum", "schedule"),
    [
        ("minimal", [0.0, 0.1, 0.2, 0.4, 0.6], 0.05, 0.0, "constant"),
        ("state-of-the-art", [0.0, 0.1, 0.4, 0.6, 0.8], 0.1, 0.9, "step"),
    ],
)
def test_paper_size_is_the_published_protocol(
    setting: str, rhos: list[float], lr: float, momentum: float, schedule: str
) -> None:
    plan = planned(size="paper", setting=setting)
    recipe = plan.runs[0].recipe
    assert sorted({p.recipe.rho for p in plan.runs}) == rhos
    assert (recipe.model, recipe.width, recipe.epochs) == ("preact-resnet18", 64, 200)
    assert (recipe.batch_size, recipe.lr, recipe.momentum) == (256, lr, momentum)
    assert (recipe.schedule, recipe.rank_block) == (schedule, "block3,final,pool")
    assert (recipe.held_out, recipe.evaluations) == (0.001, 40)
    assert {p.group for p in plan.runs} == {"main", "transfer"}


def test_plain_training_is_the_base_optimizer_alone() -> None:
    plan = planned(size="smoke", method="m-sam", overrides=("method_options=m=16",))
    for run in plan.runs:
        assert run.recipe.method == ("m-sam" if run.recipe.rho else "none")
        assert bool(run.recipe.method_options) == bool(run.recipe.rho)


def test_choices_change_the_grid() -> None:
    plan = planned(size="smoke", rhos=(0.3, 0.1), seeds=3, overrides=("epochs=1", "width=4"))
    assert sorted({rho for rho, _ in grid(plan, "main")}) == [0.0, 0.1, 0.3]
    assert sorted({seed for _, seed in grid(plan, "main")}) == [0, 1, 2]
    assert {(p.recipe.epochs, p.recipe.width) for p in plan.runs} == {(1, 4)}


def test_all_rho_of_a_seed_come_before_the_next_seed() -> None:
    assert [seed for _, seed in grid(planned(size="smoke"), "main")] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("model", "block"),
    [("preact-resnet18", "block3"), ("preact-resnet-small", "block2"), ("mlp", "block1")],
)
def test_the_last_superblock_but_one_is_judged(model: str, block: str) -> None:
    plan = planned(size="smoke", overrides=(f"model={model}", "width=4"))
    assert {p.recipe.rank_block for p in plan.runs} == {block}
    assert any(block in claim.effect for claim in plan.claims)
    chosen = planned(size="smoke", overrides=("rank_block=block1", f"model={model}", "width=4"))
    assert {p.recipe.rank_block for p in chosen.runs} == {"block1"}


def test_further_groups_change_one_thing_each() -> None:
    plan = planned()
    found = {p.group: p.recipe for p in plan.runs if p.recipe.rho == 0 and p.recipe.seed == 0}
    main = found["main"].to_dict()
    changed = {
        group: {k: v for k, v in recipe.to_dict().items() if v != main[k]}
        for group, recipe in found.items()
    }
    lean = {"rank_blocks": "block2", "centers": ["unit"], "variances": [0.99]}
    sota = {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "step", "lr": 0.1}
    assert changed["other-setting"] == {
        **sota,
        "evaluations": 20,
        "centers": ["unit"],
        "variances": [0.99],
    }
    assert changed["large-step"] == {**lean, "lr": 1.0}
    assert changed["no-augmentation"] == {**lean, "augment": False}
    decay = changed["weight-decay-only"].pop("weight_decay")
    assert changed["weight-decay-only"] == {**lean, "augment": False}
    assert decay * 0.2 * 20 * (1078 // 64) == pytest.approx(0.05 * 5e-4 * 200 * 195)
    assert changed["post-activation"] == {**lean, "model": "resnet-small"}
    for group in set(found) - {"main", "transfer"}:
        assert grid(plan, group) == [(rho, seed) for seed in range(5) for rho in (0.0, 0.4)]


def test_groups_are_chosen_and_named() -> None:
    plan = planned(size="smoke", overrides=("groups=main,post-activation",))
    assert {p.group for p in plan.runs} == {"main", "post-activation"}
    other = planned(setting="state-of-the-art")
    assert {p.group for p in other.runs} == {
        "main",
        "transfer",
        "other-setting",
        "post-activation",
    }
    minimal = next(p.recipe for p in other.runs if p.group == "other-setting")
    assert (minimal.lr, minimal.momentum, minimal.weight_decay) == (0.2, 0.0, 0.0)
    with pytest.raises(InputError, match="unknown group 'post': did you mean"):
        planned(size="smoke", overrides=("groups=main,post",))
    with pytest.raises(InputError, match="groups must have main"):
        planned(size="smoke", overrides=("groups=transfer",))
    assert {p.group for p in planned(overrides=("model=mlp", "lr=0.3")).runs} == {
        "main",
        "transfer",
        "other-setting",
        "no-augmentation",
        "weight-decay-only",
    }


def test_neighbours_in_another_data_set_need_no_second_grid() -> None:
    plan = planned(size="smoke", overrides=("transfer_data=digits",))
    assert {p.group for p in plan.runs} == {"main"}
    claim = next(c for c in plan.claims if c.name == "knn-error")
    assert "another data set" in claim.sentence
    assert next(p for p in plan.panels if "kNN" in p.title).column == "knn-transfer-1/test/block2"
    assert any("neighbours among the first train images of digits" in note for note in plan.notes)


@pytest.mark.parametrize(("size", "model"), [(32, "preact-resnet18"), (64, "preact-resnet18-4x4")])
def test_paper_size_on_images_of_other_sizes(tmp_path: Path, size: int, model: str) -> None:
    path = tmp_path / "made.parquet"
    draws = np.random.default_rng(0)
    images = [png(draws.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(24)]
    marks = ["train"] * 18 + ["test"] * 6
    table = {"image": images, "label": [i % 2 for i in range(24)], "split": marks}
    pq.write_table(pa.table(table), path)
    plan = planned(size="paper", data=f"parquet:{path}", overrides=("batch_size=4",))
    recipe = plan.runs[0].recipe
    assert recipe.model == model
    # one of 18 is held out, and ranks are of all train images, more than there are test images
    assert recipe.rank_examples == 17
    assert any(
        "compared with ranks on test, they are those of the first 6" in n for n in plan.notes
    )


@pytest.mark.parametrize(
    ("classes", "setting", "rhos"),
    [
        (10, "minimal", (0, 0.1, 0.2, 0.4, 0.6)),
        (10, "state-of-the-art", (0, 0.1, 0.4, 0.6, 0.8)),
        (100, "minimal", (0, 0.1, 0.2, 0.4, 0.6)),
        (100, "state-of-the-art", (0, 0.2, 0.6, 0.9, 1.2)),
        (200, "minimal", (0, 0.1, 0.4, 0.5, 0.6)),
        (200, "state-of-the-art", (0, 0.1, 0.4, 0.6, 0.7)),
    ],
)
def test_published_grids(classes: int, setting: str, rhos: tuple[float, ...]) -> None:
    choice = Choice(size="paper", setting=setting)
    assert tuple(radii_of(choice, classes)) == rhos


def test_labels_of_ones_own_are_halved_and_few_have_no_transfer() -> None:
    plan = planned(size="smoke", overrides=("labels=7,1,3,5",))
    transfer = next(p.recipe for p in plan.runs if p.group == "transfer")
    assert (transfer.labels, transfer.transfer_labels) == ((7, 1), (3, 5))
    assert {p.group for p in planned(size="smoke", overrides=("labels=0,1,2",)).runs} == {"main"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"size": "smok"}, "unknown size 'smok': did you mean 'smoke'"),
        ({"setting": "minimum"}, "unknown setting 'minimum': did you mean 'minimal'"),
        ({"data": "digit"}, "unknown data set 'digit': did you mean 'digits'"),
        ({"method": "saam"}, "unknown method 'saam'"),
        ({"seeds": 0}, "seeds must be 1 or more"),
        ({"rhos": (0.0,)}, "rho needs a value above 0"),
        ({"rhos": (0.1, -0.2)}, "rho must be finite and 0 or more, not -0.2"),
        ({"rhos": (float("nan"),)}, "rho must be finite"),
        ({"overrides": ("epoch=3",)}, "unknown setting 'epoch': did you mean 'epochs'"),
        ({"overrides": ("epochs=x",)}, "epochs must be a whole number"),
        ({"overrides": ("rho=1",)}, "use --rho"),
        ({"overrides": ("seed=1",)}, "use --seeds"),
        ({"overrides": ("rank_examples=5",)}, "the study sets rank_examples itself"),
        ({"overrides": ("rank_block=block*",)}, "matches 3 blocks: name one"),
        ({"overrides": ("rank_block=blok2",)}, "unknown block 'blok2': did you mean 'block2'"),
    ],
)
def test_bad_choices_are_named(choice: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as caught:
        planned(**{"size": "smoke", **choice})
    assert "\n" not in str(caught.value)


def test_unknown_studies_are_named() -> None:
    with pytest.raises(InputError, match="unknown study 'lowrank': did you mean 'low-rank'"):
        studies.get("lowrank")


def test_radii_from_text() -> None:
    assert studies.radii("0.05, 0.1") == (0.05, 0.1)
    assert studies.radii("") is None
    assert studies.radii("0.05, 0.1,") == (0.05, 0.1)
    for text in ("0.1,x", ",", "0.1,,0.2"):
        with pytest.raises(InputError, match="rho must be numbers"):
            studies.radii(text)


def test_default_folders_tell_studies_apart() -> None:
    names = {
        str(studies.default_folder(STUDY, Choice(**choice)))
        for choice in (
            {},
            {"size": "smoke"},
            {"setting": "state-of-the-art"},
            {"data": "parquet:/some/cifar.parquet"},
        )
    }
    assert names == {
        "runs/low-rank-digits-default",
        "runs/low-rank-digits-smoke",
        "runs/low-rank-digits-default-state-of-the-art",
        "runs/low-rank-cifar-default",
    }
