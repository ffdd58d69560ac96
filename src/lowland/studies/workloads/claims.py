"""The claims of the study of workloads, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast
from lowland.studies.workloads import findings
from lowland.studies.workloads.kinds import Sweep

POINTS = 0.0025
"""Smallest slope of the gap: a quarter of a percentage point for ten times the parameters."""

EXPONENT = 0.1
"""Smallest exponent of the best ρ in the parameters."""

SOURCE = "arXiv 2311.17539, abstract: experiments across diverse domains"


def claims(sweeps: Sequence[Sweep]) -> tuple[Claim, ...]:
    """Two for every workload that runs, and one for which there are no data."""
    return (*(claim for sweep in sweeps for claim in _of(sweep)), _reinforcement())


def _of(sweep: Sweep) -> tuple[Claim, Claim]:
    workload = sweep.workload
    return (
        Claim(
            name=f"{workload.name}-gain-grows",
            sentence=f"The gain of SAM over SGD grows with the size of the network: "
            f"{workload.title}.",
            source=SOURCE,
            published=f"the gain grows; {workload.published}",
            effect="least-squares slope, on log10 of the number of parameters, of the validation "
            "error of SGD minus that of SAM at the ρ that the other seeds choose for each width",
            unit="points",
            rule=AtLeast(POINTS),
            reason="A quarter of a point for ten times the parameters: half a point over the two "
            "decades between small networks and large ones.",
            find=partial(findings.gain_grows, sweep=sweep),
        ),
        Claim(
            name=f"{workload.name}-best-rho-grows",
            sentence=f"The best ρ grows with the size of the network: {workload.title}.",
            source=SOURCE,
            published=f"the best ρ grows; {workload.published}",
            effect="least-squares slope of log10 of the ρ > 0 with the lowest validation error of "
            "the seed, on log10 of the number of parameters",
            unit="",
            rule=AtLeast(EXPONENT),
            reason="An exponent of 0.1: ρ a quarter larger for ten times the parameters.",
            find=partial(findings.best_radius_grows, sweep=sweep),
        ),
    )


def _reinforcement() -> Claim:
    return Claim(
        name="atari-gain-grows",
        sentence="The gain of SAM grows with the size of the network: a CNN that plays Atari.",
        source=SOURCE,
        published="a CNN on Atari games is named, without numbers at hand",
        effect="slope of the paired gap in return on log10 of the number of parameters",
        unit="",
        rule=AtLeast(0.0),
        reason="Any growth.",
        find=findings.no_games,
    )
