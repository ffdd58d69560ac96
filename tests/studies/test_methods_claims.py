"""Every claim of the methods study on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made_arms import Place, make_arms, make_setup

from lowland.studies.methods.arms import PLAIN, SAM, Arm
from lowland.studies.methods.claims import claims
from lowland.studies.methods.columns import EQUAL_COMPUTE, SHARPNESS, TEST_ERROR, VALIDATION_ERROR
from lowland.studies.methods.comparison import comparison
from lowland.studies.methods.readings import Readings, spread
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Claim, Finding, assess
from lowland.studies.verdict import Verdict, Within

SETUP = make_setup()
CLAIMS = {claim.name: claim for claim in claims(SETUP)}


def measured(name: str, runs: list[Run]) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], Runs(runs), family=len(CLAIMS))


def test_names_and_thresholds_are_what_they_were_when_the_study_was_fixed() -> None:
    found = {name: dataclasses.astuple(claim.rule)[0] for name, claim in CLAIMS.items()}
    better = ("asam", "f-sam", "gsam", "wsam", "gcsam", "rw-sam", "agnostic-sam", "sam-on")
    cheaper = ("looksam", "esam", "saf", "mesa", "sl-sam")
    assert found == {
        "sam-equal-epochs": 0.0025,
        "sam-equal-compute": 0.0025,
        **{f"{name}-on-sam": 0.0025 for name in better},
        "m-sam-grows": 0.0025,
        "f-sam-full-gradient": 0.0025,
        "sam-on-is-sharper": 0.05,
        "lightsam-any-rho": 0.01,
        "n-sam-on-plain": 0.005,
        **{f"{name}-reaches-sam": 0.005 for name in cheaper},
    }
    within = {name for name, claim in CLAIMS.items() if isinstance(claim.rule, Within)}
    assert within == {
        "lightsam-any-rho", "n-sam-on-plain", *(f"{name}-reaches-sam" for name in cheaper)
    }  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_every_claim_says_where_it_is_from_and_never_a_number_of_ours(claim: Claim) -> None:
    assert "arXiv" in claim.source
    assert claim.published
    assert claim.reason
    assert claim.sentence.endswith(".")


def tuned(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
    """SAM: the middle ρ is best on validation, the largest on test. The others: 5%."""
    if arm.name != SAM:
        return {}
    return {
        VALIDATION_ERROR: {0.05: 0.04, 0.1: 0.02, 0.2: 0.03}[rho],
        TEST_ERROR: {0.05: 0.045, 0.1: 0.03, 0.2: 0.01}[rho] + 0.001 * seed,
    }


def test_rho_is_chosen_on_validation_never_on_test() -> None:
    finding, verdict = measured("sam-equal-epochs", make_arms(tuned))
    assert finding.effects == pytest.approx({0: 0.02, 1: 0.019, 2: 0.018})
    assert verdict.word == "holds"
    assert finding.resolution == 1 / 1000
    assert "3.10% sam, 5.00% plain" in finding.detail
    assert "ρ = 0.1 (3 of 3 seeds)" in finding.detail
    assert "takes 2.00 times a plain one here (2 passes)" in finding.detail
    assert finding.beside["at ρ = 0.2"] == pytest.approx({0: 0.04, 1: 0.039, 2: 0.038})


def test_plain_training_is_none_of_the_radii_to_choose_from() -> None:
    """It stands in SAM's group too, as its ρ = 0."""

    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        if arm.name == PLAIN:
            return {VALIDATION_ERROR: 0.0, TEST_ERROR: 0.03}
        return tuned(arm, protocol, rho, seed)

    finding, _ = measured("sam-equal-epochs", make_arms(values))
    assert finding.effects == pytest.approx({0: 0.0, 1: -0.001, 2: -0.002})


def test_equal_compute_takes_the_longer_runs_of_plain_training() -> None:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        longer = arm.name == PLAIN and protocol == EQUAL_COMPUTE
        return {TEST_ERROR: 0.02} if longer else tuned(arm, protocol, rho, seed)

    runs = make_arms(values)
    assert {run.group for run in runs} >= {"plain", "plain, equal compute", "sam"}
    assert "sam, equal compute" not in {run.group for run in runs}
    finding, verdict = measured("sam-equal-compute", runs)
    assert finding.effects == pytest.approx({0: -0.01, 1: -0.011, 2: -0.012})
    assert verdict.word == "does not hold"
    beside = measured("sam-equal-epochs", runs)[0].beside["at equal compute"]
    assert beside == pytest.approx(finding.effects)


def named(errors: dict[str, float]) -> Place:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        return {TEST_ERROR: errors[arm.name]} if arm.name in errors else {}

    return values


@pytest.mark.parametrize(
    ("claim", "errors", "effect", "word"),
    [
        ("asam-on-sam", {"asam": 0.03}, 0.02, "holds"),
        ("sam-on-on-sam", {"sam-on": 0.06}, -0.01, "does not hold"),
        ("f-sam-full-gradient", {"f-sam full gradient": 0.07}, 0.02, "holds"),
        ("f-sam-full-gradient", {"sam": 0.07}, -0.02, "does not hold"),
        ("looksam-reaches-sam", {"looksam": 0.051}, -0.001, "holds"),
        ("saf-reaches-sam", {"saf": 0.08}, -0.03, "does not hold"),
        ("n-sam-on-plain", {"n-sam": 0.0505, "sam": 0.01}, -0.0005, "holds"),
        ("n-sam-on-plain", {"n-sam": 0.03}, 0.02, "does not hold"),
    ],
)
def test_errors_of_two_arms(claim: str, errors: dict[str, float], effect: float, word: str) -> None:
    finding, verdict = measured(claim, make_arms(named(errors)))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect))
    assert verdict.word == word


def test_benefit_of_m_is_the_fall_along_the_line_in_log_m() -> None:
    def error(arm: Arm) -> float:
        return 0.03 + 0.002 * math.log2(float(arm.options.get("m", 64)) / 4)

    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        wanted = arm.name == SAM or arm.method == "m-sam"
        return {TEST_ERROR: error(arm) + 0.01 * seed} if wanted else {}

    finding, verdict = measured("m-sam-grows", make_arms(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.008))  # 64 to 4
    assert verdict.word == "holds"
    assert "4.80% at 64" in finding.detail
    assert "4.00% at 4" in finding.detail
    one = make_setup("sam")
    assert "m-sam-grows" not in {claim.name for claim in claims(one)}


def test_m_counts_up_to_the_batch_alone() -> None:
    small = make_setup("m-sam", batch_size=16)
    found = {claim.name: claim for claim in claims(small)}["m-sam-grows"]
    finding = found.find(Runs(make_arms(setup=small)))
    assert " at 16, " in finding.detail
    assert " at 32" not in finding.detail


def light(errors: dict[str, tuple[float, ...]]) -> Place:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        by_rho = dict(zip(arm.rhos, errors.get(arm.name, ()), strict=False))
        return {TEST_ERROR: by_rho[rho] + 0.01 * seed} if rho in by_rho else {}

    return values


def test_indifference_is_judged_at_the_worst_rho_of_the_worst_variant() -> None:
    flat, one_bad = (0.05, 0.051, 0.052), (0.05, 0.09, 0.05)
    runs = make_arms(light({"lightsam I": flat, "lightsam II": one_bad, "lightsam III": flat}))
    finding, verdict = measured("lightsam-any-rho", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.04))
    assert verdict.word == "does not hold"
    assert finding.beside["lightsam I"] == pytest.approx(dict.fromkeys(range(3), 0.002))
    assert "lightsam II: 6.00% at 0.0001, 10.00% at 0.001" in finding.detail
    runs = make_arms(light(dict.fromkeys(("lightsam I", "lightsam II", "lightsam III"), flat)))
    assert measured("lightsam-any-rho", runs)[1].word == "holds"


def test_a_lucky_seed_makes_no_spread() -> None:
    """The places are told by the other seeds: what one seed has at random is not its spread."""
    values = {0.1: {0: 0.0, 1: 1.0, 2: 0.0}, 0.2: {0: 1.0, 1: 0.0, 2: 0.0}}
    assert spread(values) == {0: -1.0, 1: -1.0, 2: 0.0}
    assert spread({0.1: {0: 0.5}}) == {}
    lost = spread({0.1: {0: math.nan, 1: 0.0}, 0.2: {0: 0.0, 1: 0.0}})
    assert all(map(math.isnan, lost.values()))


def test_sharpness_is_compared_as_a_ratio() -> None:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        return {SHARPNESS: {"sam-on": 0.3, SAM: 0.2}.get(arm.name, 1.0)}

    finding, _ = measured("sam-on-is-sharper", make_arms(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.5))
    assert "0.3000 sam-on, 0.2000 sam" in finding.detail
    flat = make_arms(lambda *_: {SHARPNESS: 0.0})
    assert measured("sam-on-is-sharper", flat)[1].word == "cannot tell"


@pytest.mark.parametrize("name", CLAIMS)
def test_one_seed_is_no_result(name: str) -> None:
    finding, verdict = measured(name, make_arms(tuned, seeds=(0,)))
    assert verdict.word == "no data here"
    assert not finding.effects


@pytest.mark.parametrize("name", CLAIMS)
def test_what_did_not_run_is_no_data(name: str) -> None:
    finding, verdict = measured(name, [])
    assert (finding.effects, verdict.word) == ({}, "no data here")


def test_a_radius_that_diverges_is_not_chosen_and_one_that_was_is_not_hidden() -> None:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        if arm.name == "asam" and rho == 2.0:
            return {VALIDATION_ERROR: math.nan, TEST_ERROR: math.nan}
        if arm.name == "gsam" and seed == 1:  # the others cannot know
            return {VALIDATION_ERROR: math.nan, TEST_ERROR: math.nan}
        return {}

    runs = make_arms(values)
    assert measured("asam-on-sam", runs)[1].interval is not None
    finding, verdict = measured("gsam-on-sam", runs)
    assert math.isnan(finding.effects[1])
    assert verdict.word == "cannot tell"


def test_only_claims_whose_arms_run_are_made() -> None:
    names = [claim.name for claim in claims(make_setup("looksam"))]
    assert names == ["sam-equal-epochs", "sam-equal-compute", "looksam-reaches-sam"]


def test_time_is_over_plain_training_of_the_same_seed() -> None:
    def values(arm: Arm, protocol: str, rho: float, seed: int) -> dict[str, float]:
        slow = 3.0 if rho == 0.2 else 1.0  # another run was beside
        return {"seconds/train": 160.0 * arm.passes * (1 + seed) * slow}

    read = Readings(Runs(make_arms(values)), SETUP)
    arms = {arm.name: arm for arm in SETUP.arms}
    assert sorted(read.time_ratios(arms[SAM])) == pytest.approx([2.0] * 6 + [6.0] * 3)
    assert read.time_ratios(arms[PLAIN]) == pytest.approx([1.0] * 6)  # of both protocols
    assert read.memory_ratio(arms[SAM]) == pytest.approx(3000 / 2000)
    assert Readings(Runs([]), SETUP).time_ratios(arms[SAM]) == []


def test_the_comparison_has_every_arm_with_intervals() -> None:
    found = comparison(Runs(make_arms(tuned)), SETUP)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == [arm.name for arm in SETUP.arms]
    sam = arms[SAM]
    assert sam["equal epochs"]["error"]["estimate"] == pytest.approx(0.031)
    assert sam["equal epochs"]["error"]["low"] < 0.031 < sam["equal epochs"]["error"]["high"]
    agreeing = arms["gcsam"]["equal epochs"]["error"]  # all seeds at 5%: no point for that
    assert agreeing["low"] < 0.05 < agreeing["high"]
    assert sam["equal epochs"]["chosen"] == {"0.1": 3}
    assert sam["equal compute"] == sam["equal epochs"]
    assert sam["equal epochs"]["rank"]["estimate"] == 80.0
    assert arms["looksam"]["equal compute"]["epochs"] == 17
    assert arms["plain"]["time"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert arms["looksam"]["memory"] == pytest.approx(1.1)
    by_m, by_rho = found["sweeps"]
    assert [point["x"] for point in by_m["lines"][0]["points"]] == [64, 32, 16, 8, 4]
    assert [line["name"] for line in by_rho["lines"]] == [
        "lightsam I", "lightsam II", "lightsam III"
    ]  # fmt: skip
    assert [point["x"] for point in by_rho["lines"][1]["points"]] == pytest.approx([0.01, 0.1, 1.0])


def test_a_comparison_without_runs_has_gaps_and_one_seed_has_no_numbers() -> None:
    empty = comparison(Runs([]), SETUP)
    assert all(arm["equal epochs"] is arm["time"] is None for arm in empty["arms"])
    assert empty["sweeps"] == []
    one = comparison(Runs(make_arms(seeds=(0,))), SETUP)
    assert all(arm["equal epochs"] is None for arm in one["arms"] if arm["name"] != PLAIN)
    plain = one["arms"][0]["equal epochs"]
    assert plain["error"] == {"estimate": None, "low": None, "high": None}
