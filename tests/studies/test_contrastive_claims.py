"""The claims of both image-text studies, on runs whose effects are known, and their plans."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_runs

from lowland import studies
from lowland.core.errors import InputError
from lowland.studies.bottleneck import STUDY as BOTTLENECK
from lowland.studies.bottleneck import columns as groups
from lowland.studies.bottleneck.claims import claims as bottleneck_claims
from lowland.studies.bottleneck.drawings import figures as bottleneck_figures
from lowland.studies.bottleneck.drawings import tables as bottleneck_tables
from lowland.studies.bottleneck.findings import Setup
from lowland.studies.contrastive import STUDY as CONTRASTIVE
from lowland.studies.contrastive import columns
from lowland.studies.contrastive.claims import MARGIN, claims
from lowland.studies.contrastive.columns import FROZEN, TUNED, Measured
from lowland.studies.contrastive.drawings import figures, tables
from lowland.studies.contrastive.recipes import pairs_of, recipe_of
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Finding
from lowland.train import Launcher, Outcome, Runnable, Watch, run_any

WHAT = Measured(batch=128, queries=256, ranked=359)
SETUP = Setup(what=WHAT, widths=(4, 8))
SPLITS = ("train", "validation", "test")


def row(
    error: Mapping[str, float], rank: Mapping[str, float], loss: float, validation: float
) -> dict[str, float]:
    """All columns of an evaluation, from an error by way and a rank by tower."""
    found = {"train/loss": loss, "validation/error": validation}
    for split in SPLITS:
        for way, value in error.items():
            found[columns.error(way, split=split)] = value
            found[columns.error(way, split=split, among_all=True)] = value + 0.2
    found["test/error"] = sum(error.values()) / 2
    for split in ("train", "test"):
        for tower, value in rank.items():
            for place in ("features", "projected", "normalised"):
                for center in ("unit", "example"):
                    for variance in columns.VARIANCES:
                        name = columns.rank(
                            tower, split=split, place=place, center=center, variance=variance
                        )
                        found[name] = value * (0.5 if center == "example" else 1)
    return found


def known(rho: float, seed: int, step: int) -> dict[str, float]:
    """Rank of images 100 − 200ρ and of texts 50 − 50ρ at the end; errors fall at ρ = 0.1, rise at
    0.4; the loss is 8 / 2^step at ρ = 0 and one step behind at every other."""
    gain = {0.0: 0.0, 0.1: 0.04, 0.4: -0.1}[rho]
    time = step - (1 if rho else 0)
    return row(
        error={
            columns.IMAGEWISE: 0.3 - gain + 0.001 * seed,
            columns.TEXTWISE: 0.4 - gain / 2,
        },
        rank={"image": 100 - 200 * rho + 10 * (3 - step), "text": 50 - 50 * rho},
        loss=8.0 / 2**time,
        validation=0.3 - gain,
    )


def both(values: Callable[..., dict[str, float]] = known) -> Runs:
    return Runs([*make_runs(values, group=TUNED), *make_runs(values, group=FROZEN)])


def found(name: str, runs: Runs | None = None) -> Finding:
    (claim,) = [claim for claim in claims(WHAT) if claim.name == name]
    return claim.find(runs or both())


def test_falls_of_rank_are_relative_to_plain_training() -> None:
    finding = found("image-rank")
    assert finding.effects == pytest.approx({0: 0.8, 1: 0.8, 2: 0.8})
    assert finding.resolution == pytest.approx(1 / 100)
    assert finding.beside["published centring"] == pytest.approx(finding.effects)
    assert finding.detail.startswith("Mean by ρ: 100.0 at 0, 80.0 at 0.1, 20.0 at 0.4.")
    assert found("text-rank").effects == pytest.approx(dict.fromkeys(range(3), 0.4))
    assert found("frozen-text-rank").effects == pytest.approx(dict.fromkeys(range(3), 0.4))


def test_errors_are_compared_at_the_rho_that_validation_chose() -> None:
    finding = found("imagewise-error")
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.04))
    assert "ρ = 0.1 (3 of 3 seeds)" in finding.detail
    assert finding.resolution == 1 / 256
    assert finding.beside["at ρ = 0.4"] == pytest.approx(dict.fromkeys(range(3), -0.1))
    assert finding.beside["among all test pairs"] == pytest.approx(finding.effects)
    assert finding.beside["at matched train loss"] == pytest.approx(finding.effects)
    assert found("textwise-error").effects == pytest.approx(dict.fromkeys(range(3), 0.02))


def test_harmless_looks_where_the_rank_is_lower() -> None:
    finding = found("low-rank-is-harmless")
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), MARGIN + 0.03))
    assert "lower by 15.0%" in finding.detail

    def flat(rho: float, seed: int, step: int) -> dict[str, float]:
        return {**known(rho, seed, step), **known_ranks(0.0, seed, step)}

    def known_ranks(rho: float, seed: int, step: int) -> dict[str, float]:
        return {k: v for k, v in known(rho, seed, step).items() if k.startswith("rank/")}

    with pytest.raises(NotMeasuredError, match="no ρ lowers the rank by 5%"):
        found("low-rank-is-harmless", both(flat))


def test_collapse_is_a_fall_in_the_second_half_of_plain_training() -> None:
    # images 110 in the middle, 100 at the end; texts constant
    expected = 0.05 - (1 - 100 / 110) / 2
    assert found("no-collapse").effects == pytest.approx(dict.fromkeys(range(3), expected))


def test_matched_loss_compares_where_both_first_reach_it() -> None:
    # level 2: plain training reaches it at step 2, the others at step 3
    expected = 1 - 20 / 110
    finding = found("image-rank-at-matched-loss")
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), expected))


def test_one_seed_cannot_choose_and_a_diverged_run_is_not_dropped() -> None:
    single = Runs(make_runs(known, group=TUNED, seeds=(0,)))
    with pytest.raises(NotMeasuredError, match="one seed cannot choose"):
        found("imagewise-error", single)
    runs = make_runs(known, group=TUNED)
    lost = [_diverged(run) if (run.rho, run.seed) == (0.4, 1) else run for run in runs]
    effects = found("image-rank", Runs(lost)).effects
    assert math.isnan(effects[1])
    assert effects[0] == pytest.approx(0.8)


def _diverged(run: Run) -> Run:
    lost = {name: [*values[:-1], None] for name, values in run.history.items()}
    return Run(**{**run.__dict__, "history": lost, "diverged": True})


def arms() -> Runs:
    """SAM as `known`; a bottleneck of 4 has imagewise errors 0.01 lower and textwise 0.02 higher,
    one of 8 is like plain training with a worse validation error."""

    def narrow(h: int) -> Callable[..., dict[str, float]]:
        def values(rho: float, seed: int, step: int) -> dict[str, float]:
            plain = known(0.0, seed, step)
            better = {columns.IMAGEWISE: -0.01, columns.TEXTWISE: 0.02} if h == 4 else {}
            changed = {
                columns.error(way): plain[columns.error(way)] + d for way, d in better.items()
            }
            changed["test/error"] = plain["test/error"] + sum(better.values()) / 2
            ranks = {k: float(h) for k in plain if k.startswith("rank/")}
            chosen = {"validation/error": 0.31 if h == 4 else 0.32}
            return {**plain, **changed, **ranks, **chosen}

        return values

    runs = make_runs(known, group=groups.SAM)
    for h in (4, 8):
        runs += make_runs(narrow(h), group=groups.bottleneck(h), rhos=(0.0,))
    return Runs(runs)


def of_arms(name: str) -> Finding:
    (claim,) = [claim for claim in bottleneck_claims(SETUP) if claim.name == name]
    return claim.find(arms())


BY_HAND = {
    "bottleneck-lowers-rank": (1 - 4 / 100 + 1 - 4 / 50) / 2,
    "bottleneck-imagewise-marginal": 0.01,
    "bottleneck-textwise-worse": 0.02,
    "bottleneck-does-not-enhance": 0.005 - (0.01 - 0.02) / 2,
    "sam-imagewise": 0.04,
    "sam-textwise": 0.02,
    "sam-beats-bottleneck-imagewise": 0.03,
    "sam-beats-bottleneck-textwise": 0.04,
    "sam-lowers-rank-there": (0.2 + 0.1) / 2,
}


def test_every_claim_about_bottlenecks_has_the_effect_that_was_put_in() -> None:
    assert [claim.name for claim in bottleneck_claims(SETUP)] == list(BY_HAND)
    for name, effect in BY_HAND.items():
        finding = of_arms(name)
        assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect)), name
        assert finding.beside, name
    assert "h = 4 (3 of 3 seeds)" in of_arms("bottleneck-imagewise-marginal").detail
    beside = of_arms("bottleneck-textwise-worse").beside
    assert beside["h = 8"] == pytest.approx(dict.fromkeys(range(3), 0.0))


def test_drawings_and_tables_have_every_arm() -> None:
    final, drawing = figures(both())
    assert [line.y for line in final.lines] == [
        pytest.approx(y) for y in ([100, 80, 20], [50, 45, 30]) * 2
    ]
    assert [line.name for line in drawing.lines] == [
        "fine-tuned, before the head",
        "fine-tuned, behind the head",
        "frozen, before the head",
        "frozen, behind the head",
    ]
    assert drawing.lines[0].y == pytest.approx([50, 45, 30])
    first, second, *_ = found = tables(both(), WHAT)
    assert len(found) == 4
    assert first.rows[1] == ["0.1", 2.0, "26.1%", "38.0%", "46.1%", "58.0%"]
    assert second.rows[2] == ["0.4", 20, 20, 20, 30, 30, 30, 10, 15]
    assert all(len(line) == len(sheet.head) for sheet in found for line in sheet.rows)
    drawn = bottleneck_figures(arms(), SETUP)
    assert [len(figure.lines) for figure in drawn] == [2, 2, 2, 2]
    assert drawn[2].lines[0].y == pytest.approx([4, 8, 100])
    sheet, ranks = bottleneck_tables(arms(), SETUP)
    assert [line[0] for line in ranks.rows] == [line[0] for line in sheet.rows]
    assert [line[0] for line in sheet.rows] == [
        "h = 4",
        "h = 8",
        "plain",
        "SAM, ρ = 0.1",
        "SAM, ρ = 0.4",
    ]


class TestPlans:
    def test_default_has_both_groups_of_every_seed_and_rho(self) -> None:
        plan = CONTRASTIVE.plan(CONTRASTIVE.choose())
        places = {(p.group, p.recipe.rho, p.recipe.seed) for p in plan.runs}
        assert len(places) == len(plan.runs) == 2 * 4 * 8
        assert {p.recipe.freeze_text for p in plan.runs if p.group == FROZEN} == {True}
        assert {p.recipe.method for p in plan.runs if p.recipe.rho == 0} == {"none"}
        assert any("defined data" in note for note in plan.notes)

    def test_texts_of_several_images_are_counted(self) -> None:
        """Retrieval has a floor there, which the report says."""
        choice = CONTRASTIVE.choose()
        data = pairs_of(recipe_of(choice))
        texts = [of_image[0] for of_image in data.test.captions]
        inside = [
            any(texts[i] == texts[j] and i // 128 == j // 128 for j in range(256) if j != i)
            for i in range(256)
        ]
        anywhere = [texts.count(text) > 1 for text in texts]
        assert sum(inside) > 0
        (note,) = [note for note in CONTRASTIVE.plan(choice).notes if "tell these apart" in note]
        assert f"Of 256 test texts in whole batches {sum(inside)} stand" in note
        assert f"of all {len(texts)} {sum(anywhere)} with another image" in note

    def test_one_of_the_two_groups_alone(self) -> None:
        """An encoder that is too large to be trained can be left frozen."""
        plan = CONTRASTIVE.plan(CONTRASTIVE.choose(size="smoke", overrides=("groups=frozen",)))
        assert {p.group for p in plan.runs} == {FROZEN} == {p.group for p in plan.panels}
        assert all(claim.name.startswith("frozen-") for claim in plan.claims)
        both = CONTRASTIVE.plan(CONTRASTIVE.choose(size="smoke"))
        assert [
            c.name for c in both.claims if c in plan.claims or c.name.startswith("frozen-")
        ] == [c.name for c in plan.claims]
        assert plan.runs[0].recipe == next(p for p in both.runs if p.group == FROZEN).recipe
        with pytest.raises(InputError, match="unknown group 'frozn': did you mean 'frozen'"):
            CONTRASTIVE.plan(CONTRASTIVE.choose(overrides=("groups=fine-tuned,frozn",)))

    def test_widths_are_the_studys_own_setting(self) -> None:
        choice = BOTTLENECK.choose(size="smoke", overrides=("widths=3,2", "epochs=1"))
        plan = BOTTLENECK.plan(choice)
        assert {p.recipe.bottleneck for p in plan.runs} == {None, 2, 3}
        with pytest.raises(InputError, match="widths must be whole numbers from 1"):
            BOTTLENECK.plan(BOTTLENECK.choose(size="smoke", overrides=("widths=0",)))

    def test_published_setting_is_published(self) -> None:
        plan = CONTRASTIVE.plan(CONTRASTIVE.choose(size="smoke", setting="published"))
        recipe: Any = plan.runs[0].recipe
        assert (recipe.base, recipe.schedule, recipe.pool) == (
            "published-adam",
            "constant",
            "positions",
        )
        assert (recipe.pixels, recipe.captions) == ("unit", "published")

    def test_another_encoder_comes_without_the_options_of_the_usual_one(self) -> None:
        overrides = ("image=vit", "text=hf:/none/such")
        plan = CONTRASTIVE.plan(CONTRASTIVE.choose(size="smoke", overrides=overrides))
        recipe: Any = plan.runs[0].recipe
        assert (recipe.image_options, recipe.text_options, recipe.pretraining) == ((), (), 0)

    @pytest.mark.parametrize("key", ["freeze_text", "bottleneck", "centers"])
    def test_what_the_study_sets_itself_cannot_be_set(self, key: str) -> None:
        with pytest.raises(InputError, match=f"the study sets {key} itself"):
            CONTRASTIVE.plan(CONTRASTIVE.choose(size="smoke", overrides=(f"{key}=1",)))

    def test_paper_size_needs_its_data(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no annotations"):
            CONTRASTIVE.plan(CONTRASTIVE.choose(size="paper", data=f"coco:{tmp_path}"))
        with pytest.raises(InputError, match="takes no size"):
            CONTRASTIVE.plan(CONTRASTIVE.choose(size="paper"))


class Here:
    """Runs in this process, one after the other: nothing is imported anew."""

    name, side_by_side = "here", 1

    def check(self) -> None: ...

    def launch(self, recipes: list[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        return [Outcome(recipe=recipe, folder=run_any(recipe, root)) for recipe in recipes]


@pytest.mark.slow
@pytest.mark.parametrize("study", [CONTRASTIVE, BOTTLENECK], ids=lambda study: study.name)
def test_the_smoke_size_measures_every_claim(study: studies.Study, tmp_path: Path) -> None:
    choice = study.choose(size="smoke", overrides=("epochs=2",))
    launcher: Launcher = Here()  # type: ignore[assignment]
    results = studies.execute(study, choice, tmp_path / "study", launcher=launcher)
    assert results["failures"] == []
    assert not any(run["diverged"] for run in results["runs"])
    for claim in results["claims"]:
        if claim["name"] != "low-rank-is-harmless":  # two epochs may lower no rank
            assert claim["n"] == 2, claim["why"]
            assert math.isfinite(claim["estimate"]), claim["name"]
    json.dumps(results, allow_nan=False)
    assert (tmp_path / "study" / "report.html").stat().st_size > 10_000
