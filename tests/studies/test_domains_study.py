"""Domains left out: names of data, new last layers, effects from runs made by hand, a small run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import make_runs
from made_study import InProcess
from PIL import Image

from lowland import InputError, studies
from lowland.data import load
from lowland.studies.domains import STUDY, columns, findings, heads
from lowland.studies.domains.claims import claims
from lowland.studies.domains.drawings import figures, tables
from lowland.studies.domains.experiment import contents_of, leave_out
from lowland.studies.domains.plan import data_names
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import assess
from lowland.train import Experiment, Reading

GROUPS = ["rotated 0", "rotated 15"]
ERRORS = (columns.INSIDE, columns.OUTSIDE, columns.RETRAINED, columns.READ_OFF)


def made(**shift: float) -> Runs:
    """Inside best at ρ = 0.1; outside SAM is better by 4 points (and at ρ = 0.4 by 10)."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        inside = {0.0: 0.10, 0.1: 0.09, 0.4: 0.12}[rho]
        outside = {0.0: 0.30, 0.1: 0.26, 0.4: 0.20}[rho]
        last = {
            columns.RETRAINED: outside - 0.05,
            columns.READ_OFF: outside / 2,
        }
        row = {
            columns.TRAIN_LOSS: 2.0 / (1 + step + rho),
            columns.INSIDE: inside + 0.001 * seed,
            columns.OUTSIDE: outside + 0.1 * (3 - step),
        }
        return row | (last if step == 3 else {})

    return Runs([run for group in GROUPS for run in make_runs(values, group=group)])


@pytest.mark.parametrize(
    ("column", "wanted"),
    [(columns.OUTSIDE, 0.04), (columns.RETRAINED, 0.04), (columns.READ_OFF, 0.02)],
)
def test_gains_are_at_the_radius_that_the_training_domains_choose(
    column: str, wanted: float
) -> None:
    found = findings.gain(made(), GROUPS, column)
    assert list(found.effects.values()) == pytest.approx([wanted] * 3)
    assert "ρ = 0.1 (6 of 6 choices)" in found.detail, "of both domains, not of the first alone"
    assert "rotated 15 30.0% and 26.0%" in found.detail or column != columns.OUTSIDE
    oracle = found.beside["with ρ chosen on the domain left out (oracle)"]
    assert list(oracle.values()) == pytest.approx([{0.04: 0.1, 0.02: 0.05}[wanted]] * 3)
    assert ("at matched train loss" in found.beside) == (column == columns.OUTSIDE)


def test_matched_loss_takes_errors_on_the_way() -> None:
    """Plain ends at loss 1/2, SAM at 2/4.1; SAM passes 1/2 between its last evaluations."""
    found = findings.gain(made(), GROUPS, columns.OUTSIDE).beside["at matched train loss"]
    losses = [2 / (1.1 + step) for step in (2, 3)]
    share = torch.tensor([losses[0] / 0.5, losses[0] / losses[1]]).log()
    sam = 0.36 - 0.1 * float(share[0] / share[1])
    assert list(found.values()) == pytest.approx([0.30 - sam] * 3, rel=1e-5)


def test_outside_against_inside_and_what_retraining_gains() -> None:
    runs = made()
    outside = findings.more_outside(runs, GROUPS).effects
    assert list(outside.values()) == pytest.approx([0.04 - 0.01] * 3)
    matched = findings.more_outside(runs, GROUPS).beside["at matched train loss"]
    of_outside = findings.gain(runs, GROUPS, columns.OUTSIDE).beside["at matched train loss"]
    # inside nothing changes over training, so that the gain there is 0.01 at every loss
    assert list(matched.values()) == pytest.approx([v - 0.01 for v in of_outside.values()])
    retrained = findings.retraining(runs, GROUPS)
    assert list(retrained.effects.values()) == pytest.approx([0.05] * 3)


def test_claims_without_their_data_say_so() -> None:
    every = claims({"rotated": GROUPS, "domains": []})
    words = [assess(claim, made(), family=len(every))[1].word for claim in every]
    assert words[:5] == ["holds"] * 5
    assert words[5:] == ["no data here"] * 5
    with pytest.raises(NotMeasuredError, match="no such domains"):
        findings.more_outside(made(), [])


def runs_of(runs: Runs) -> list[Run]:
    group = GROUPS[0]
    return [runs.run(group, rho, s) for rho in runs.rhos(group) for s in runs.seeds(group)]


def test_figures_and_tables_have_every_domain() -> None:
    runs, kinds = made(), {"rotated": [*GROUPS, "rotated 30"]}
    outside, retrained = figures(runs, kinds)
    assert outside.x.ticks == [(0.0, "0"), (1.0, "15")]
    assert [line.y[0] for line in outside.lines] == pytest.approx([0.30, 0.26, 0.20])
    assert retrained.lines[0].y == pytest.approx([0.25, 0.25])
    spaced = Runs([dataclasses.replace(run, group="rotated Real World") for run in runs_of(runs)])
    (first, _) = figures(spaced, {"rotated": ["rotated Real World"]})
    assert first.x.ticks == [(0.0, "Real World")], "as OfficeHome has one"
    (sheet,) = tables(runs, kinds)
    assert [row[:2] for row in sheet.rows[:2]] == [["rotated 0", "plain"], ["rotated 0", "SAM"]]
    assert sheet.rows[1][2:] == pytest.approx([9.1, 26, 21, 13])


class TestData:
    def test_digits_are_two_kinds_of_domains(self) -> None:
        names = data_names("digits")
        assert list(names["rotated"]) == ["0", "15", "30", "45", "60", "75"]
        assert names["coloured"]["0.1"] == "colored-digits:test=0.1"
        assert data_names("mnist:a/b")["rotated"]["15"] == "rotated-mnist:a/b,test=15"

    def test_folders_name_their_own(self, tmp_path: Path) -> None:
        name = folders(tmp_path)
        assert data_names(name)["domains"] == {d: f"{name},test={d}" for d in ("art", "photo")}

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ("fashion-mnist", "has no domains: use digits"),
            ("domains:x,test=a", "leave test and spurious out"),
            ("domains:nowhere", "nowhere"),
        ],
    )
    def test_data_without_domains(self, data: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            data_names(data)


def folders(root: Path) -> str:
    for domain in ("art", "photo"):
        for label in ("cat", "dog"):
            place = root / domain / label
            place.mkdir(parents=True)
            for i in range(20):
                colour = (i, 200 if label == "dog" else 20, 3 * i)
                Image.new("RGB", (40, 40), colour).save(place / f"{i}.png")
    return f"domains:{root},size=40"


def test_groups_are_labels_with_what_is_spurious() -> None:
    data = load("colored-digits")
    found = heads.groups(data, data.validation)
    colour = data.validation.annotations["colour"]
    assert torch.equal(found, 2 * data.validation.labels + colour)
    data = load("rotated-digits")
    split = data.validation
    assert torch.equal(heads.groups(data, split), 6 * split.labels + split.annotations["domain"])


def test_new_last_layers_find_what_features_tell() -> None:
    """Features that are the shape find all labels but the wrong ones; the colour misleads."""
    data = load("colored-digits:noise=0")
    wanted = {}
    for name in ("shape", "colour"):
        features = [
            split.annotations[name][:, None].float() for split in (data.validation, data.test)
        ]
        wanted[name] = heads.errors(data, *features)
    assert wanted["shape"] == {columns.RETRAINED: 0.0, columns.READ_OFF: 0.0}
    assert wanted["colour"][columns.RETRAINED] > 0.3  # the groups equally: a colour tells nothing
    assert wanted["colour"][columns.READ_OFF] == pytest.approx(0.1, abs=0.02)


def test_rows_are_those_of_the_networks() -> None:
    rows = list(
        leave_out(
            seed=0,
            rho=0.0,
            count=1,
            radii=[0.0, 0.1],
            data="rotated-digits",
            contents=contents_of(load("rotated-digits:test=30")),
            network="mlp",
            width=8,
            epochs=1,
            batch_size=64,
            lr=0.05,
            momentum=0.9,
            weight_decay=0.0,
            schedule="cosine",
            evaluations=2,
            limit=200,
        )
    )
    assert [(row["rho"], row["epoch"]) for row in rows] == [
        (rho, epoch) for rho in (0.0, 0.1) for epoch in (0.0, 1 / 3, 1.0)
    ]
    assert rows[0] | {"rho": 0.1} == rows[3]  # the same initialisation
    assert [columns.RETRAINED in row for row in rows] == [False, False, True] * 2
    assert all(0 <= row[c] <= 1 for row in rows[2::3] for c in ERRORS)


def digits_file(path: Path, first: int = 0) -> Path:
    """200 grey images of ten classes under the names that MNIST's have."""
    y = np.arange(200) % 10
    x = (np.arange(200)[:, None, None] + first + np.eye(8, dtype=int) * 90).astype(np.uint8)
    np.savez(path, x=x, y=y)
    return path


def test_other_data_at_the_same_place_are_other_runs(tmp_path: Path) -> None:
    """A finished run of the old file must not be taken for one of the new file."""

    def planned() -> list[Experiment]:
        name = f"mnist:{digits_file(tmp_path / 'x.npz', first)}"
        return [p.recipe for p in STUDY.plan(STUDY.choose(data=name, size="smoke")).runs]

    first = 0
    before = planned()
    assert planned() == before
    first = 1
    assert not set(planned()) & set(before)
    with pytest.raises(InputError, match="has changed since the study began: start it again"):
        next(leave_out(**before[0].arguments))


def test_contents_do_not_depend_on_the_domain_left_out() -> None:
    for kind, domains in {"rotated-digits": ("0", "45"), "colored-digits": ("0.9", "0.1")}.items():
        one, other = (contents_of(load(f"{kind}:test={d}")) for d in domains)
        assert one == other
        assert one != contents_of(load(f"{kind}:test={domains[0]}").first(300))
    quiet = contents_of(load("colored-digits:noise=0"))
    assert quiet != contents_of(load("colored-digits")), "labels count"


class TestPlan:
    def test_notes_say_what_was_set(self, tmp_path: Path) -> None:
        choice = STUDY.choose(size="smoke", overrides=("lr=0.3", "epochs=7", "limit=90"))
        notes = " ".join(STUDY.plan(choice).notes)
        assert "learning rate 0.3 (cosine), batch 64, 7 epochs" in notes
        assert "at most 90 train images" in notes
        assert "Coloured digits have two classes" in notes
        choice = STUDY.choose(
            data=folders(tmp_path), size="paper", overrides=("lr=0.3", "model=vit-mini")
        )
        notes = " ".join(STUDY.plan(choice).notes)
        assert "vit-mini; sgd with learning rate 0.3 (cosine), momentum 0.9, batch 64" in notes
        assert "digits" not in notes

    def test_default_leaves_every_domain_out(self) -> None:
        plan = STUDY.plan(STUDY.choose())
        assert {p.group for p in plan.runs} == {
            *(f"rotated {angle}" for angle in (0, 15, 30, 45, 60, 75)),
            *(f"coloured {share}" for share in (0.1, 0.8, 0.9)),
        }
        assert all(isinstance(p.recipe, Experiment) and p.many for p in plan.runs)
        assert len(plan.claims) == 10

    def test_paper_size_reads_trained_networks(self, tmp_path: Path) -> None:
        choice = STUDY.choose(data=folders(tmp_path), size="paper", overrides=("epochs=1",))
        plan = STUDY.plan(choice)
        assert all(isinstance(p.recipe, Reading) for p in plan.runs)
        assert len(plan.runs) == 2 * 3 * 5
        assert {p.recipe.recipe.epochs for p in plan.runs} == {1}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"method": "asam"}, "trains stacks with sam, not with asam"),
            ({"overrides": ("epoch=3",)}, "epochs"),
            (
                {"overrides": ("limit=60",)},
                "60 examples make no whole batch of 64: use batch_size=60",
            ),
            ({"size": "paper", "overrides": ("data=digits",)}, "--data"),
        ],
    )
    def test_what_is_refused(self, change: dict[str, object], said: str) -> None:
        with pytest.raises(InputError, match=said):
            STUDY.plan(STUDY.choose(**change))

    def test_what_the_message_says_can_be_done(self) -> None:
        plan = STUDY.plan(STUDY.choose(overrides=("limit=60", "batch_size=60")))
        recipe = plan.runs[0].recipe
        assert isinstance(recipe, Experiment)
        assert dict(recipe.arguments)["batch_size"] == 60

    def test_large_images_are_for_recipes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="images of 40 pixels are for --size paper"):
            STUDY.plan(STUDY.choose(data=folders(tmp_path)))


@pytest.mark.slow
def test_a_network_of_folders_is_read(tmp_path: Path) -> None:
    changes = ("model=resnet18", "width=4", "epochs=1", "batch_size=8", "rank_examples=10")
    choice = STUDY.choose(
        data=folders(tmp_path / "data"), size="paper", seeds=1, rhos=(0.1,), overrides=changes
    )
    done = studies.execute(STUDY, choice, tmp_path / "runs", launcher=InProcess())
    rows = [run["history"] for run in done["runs"]]
    assert len(rows) == 4
    assert all(0 <= row[c][-1] <= 1 for row in rows for c in ERRORS)
