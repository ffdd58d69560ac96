"""What a study is: a source, claims as sentences, a grid of runs, and what to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError, unknown
from lowland.studies.drawing import Axis, Drawing, HeatMap, Line, Sheet
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.verdict import AtLeast, Verdict, Within, judge

if TYPE_CHECKING:
    from lowland.train import Runnable

__all__ = [
    "Axis",
    "Choice",
    "Claim",
    "Drawing",
    "Effects",
    "Finding",
    "HeatMap",
    "Line",
    "Panel",
    "Plan",
    "Planned",
    "Sheet",
    "Study",
    "assess",
    "describe",
    "grid",
    "radii",
]

Effects = Mapping[int, float]
"""One effect per seed, signed so that the claim says positive."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim's measurement found.

    Attributes:
        effects: one effect per seed.
        detail: a sentence or two about how it came about, or empty.
        resolution: the smallest step that an effect can make, 0 for a continuous one.
        beside: the same effect under other definitions: shown with an interval, never judged.
    """

    effects: Effects
    detail: str = ""
    resolution: float = 0.0
    beside: Mapping[str, Effects] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published claim and the test it is put to, fixed before anything runs.

    Attributes:
        name: short name, in the order of the table.
        sentence: the claim, as one sentence.
        source: figure, table or section that it comes from.
        published: the published number, or its shape where there is only a figure.
        effect: what is computed per seed, in words.
        unit: ``"percent"`` for shares, ``"points"`` for differences of percentages, ``""`` else.
        rule: the smallest effect that matters, or the equivalence margin.
        reason: why that threshold.
        find: computes one effect per seed.
    """

    name: str
    sentence: str
    source: str
    published: str
    effect: str
    unit: str
    rule: AtLeast | Within
    reason: str
    find: Callable[[Runs], Finding]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A column that the report draws, over training and at the end against ρ.

    Attributes:
        title: what it is, with its unit.
        column: name of the column in the history of the runs.
        group: which part of the grid.
        percent: show as a percentage.
        log: logarithmic axis.
        note: how to read it, in a sentence.
        x: the column that time is read from.
        log_x: logarithmic axis of time; time 0 is left out.
        median: shown as the median over seeds with the quartiles, in place of the mean with its
            interval: for values over many powers of ten.
    """

    title: str
    column: str
    group: str
    percent: bool = False
    log: bool = False
    note: str = ""
    x: str = "epoch"
    log_x: bool = False
    median: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the caller chose, before the study fills in its defaults.

    Attributes:
        size: name of one of the study's sizes.
        data: data set by name.
        setting: name of one of the study's training settings.
        method: method of the runs with ρ > 0.
        rhos: values of ρ > 0, or None for the study's own.
        seeds: number of seeds, or None for the study's own.
        overrides: ``key=value`` changes to every recipe.
        seed: the first seed; None for 0. With it alone there is that seed alone.
        exact: by the published conventions where the study has them as a whole.
    """

    size: str = "default"
    data: str = "digits"
    setting: str = "minimal"
    method: str = "sam"
    rhos: tuple[float, ...] | None = None
    seeds: int | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    exact: bool = False

    def seed_range(self, usual: int) -> range:
        """The seeds: so many as are asked for, or as are usual, from the first one on."""
        if self.seed is None:
            return range(self.seeds or usual)
        return range(self.seed, self.seed + (self.seeds or 1))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of the grid, or many that are computed together.

    Attributes:
        group: the part of the grid that it belongs to.
        recipe: what to do: a recipe, an experiment or a reading.
        many: its rows have columns ``rho`` and ``seed``, and each pair of them is a run. The own ρ
            and seed of what is done do not count then.
    """

    group: str
    recipe: Runnable
    many: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study made ready to run on one data set.

    Attributes:
        runs: the grid.
        claims: every claim, judged together as one family.
        panels: what the report draws.
        fingerprint: SHA-256 of the data, as `lowland.data` gives it.
        notes: sentences that a reader needs, for example how many examples were measured.
        compare: puts arms side by side, as plain values for the report's own table and plots
            (see `lowland.studies.methods.comparison`); None where the study has no arms.
        figures: makes the figures that are no panels.
        tables: makes tables of their own.
        aside: groups that are shown beside the grid and do not count among its seeds, for example
            the one seed that was published.
    """

    runs: tuple[Planned, ...]
    claims: tuple[Claim, ...]
    panels: tuple[Panel, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    compare: Callable[[Runs], Mapping[str, Any]] | None = None
    figures: Callable[[Runs], Sequence[Drawing | HeatMap]] | None = None
    tables: Callable[[Runs], Sequence[Sheet]] | None = None
    aside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A set of published claims that can be run again.

    Attributes:
        name: name on the command line.
        title: one line.
        source: the paper.
        shows: what it shows, in a sentence.
        sizes: names of the sizes and how long each takes.
        settings: names of the training settings and what they are; the first is the usual one.
        plan: fills in the defaults and lays out the grid.
        method: the method, or methods, that it runs unless told otherwise.
        data: the data that it runs on unless told otherwise.
        exact: what ``exact`` of a choice means here; empty where there is no such thing.
    """

    name: str
    title: str
    source: str
    shows: str
    sizes: Mapping[str, str]
    settings: Mapping[str, str]
    plan: Callable[[Choice], Plan]
    method: str = "sam"
    data: str = "digits"
    exact: str = ""

    @property
    def setting(self) -> str:
        """The usual setting."""
        return next(iter(self.settings))

    def choose(
        self,
        *,
        setting: str | None = None,
        method: str | None = None,
        data: str | None = None,
        **rest: Any,
    ) -> Choice:
        """A choice, with the study's own setting, method and data where none is given."""
        return Choice(
            setting=setting or self.setting,
            method=method or self.method,
            data=data or self.data,
            **rest,
        )

    def describe(self) -> dict[str, Any]:
        """What the list of studies says about it."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "shows": self.shows,
            "sizes": dict(self.sizes),
        }

    def check(self, choice: Choice) -> None:
        """Refuse sizes, settings and numbers that make no grid.

        Raises:
            InputError: what is wrong, and the nearest valid name.
        """
        for kind, name, known in (
            ("size", choice.size, self.sizes),
            ("setting", choice.setting, self.settings),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        if choice.seeds is not None and choice.seeds < 1:
            raise InputError(f"seeds must be 1 or more, not {choice.seeds}")
        if choice.seed is not None and choice.seed < 0:
            raise InputError(f"seed must be 0 or more, not {choice.seed}")
        if choice.exact and not self.exact:
            raise InputError(f"study {self.name} has no exact mode: leave --exact out")
        if choice.rhos is not None:
            _check_radii(choice.rhos)


def assess(claim: Claim, runs: Runs, *, family: int) -> tuple[Finding, Verdict]:
    """Measure a claim on the runs and judge it; what was not measured is *no data here*."""
    try:
        finding = claim.find(runs)
    except NotMeasuredError as missing:
        reason = str(missing)
        return Finding(effects={}), Verdict(word="no data here", interval=None, n=0, reason=reason)
    verdict = judge(
        list(finding.effects.values()), claim.rule, family=family, resolution=finding.resolution
    )
    return finding, verdict


def describe(claim: Claim) -> dict[str, Any]:
    """A claim as plain values."""
    within = isinstance(claim.rule, Within)
    return {
        "name": claim.name,
        "sentence": claim.sentence,
        "source": claim.source,
        "published": claim.published,
        "effect": claim.effect,
        "unit": claim.unit,
        "kind": "within" if within else "at least",
        "threshold": claim.rule.margin if isinstance(claim.rule, Within) else claim.rule.delta,
        "reason": claim.reason,
    }


def radii(text: str) -> tuple[float, ...] | None:
    """Radii from text such as ``"0.05, 0.1"``; None from nothing.

    Raises:
        InputError: something in it is not a number.
    """
    if not text.strip():
        return None
    try:
        # a comma after the last number is no number that is missing
        return tuple(float(part) for part in text.strip().removesuffix(",").split(","))
    except ValueError:
        raise InputError(f"rho must be numbers such as 0.05,0.1, not {text!r}") from None


def _check_radii(rhos: Sequence[float]) -> None:
    if wrong := [rho for rho in rhos if not (math.isfinite(rho) and rho >= 0)]:
        raise InputError(f"rho must be finite and 0 or more, not {wrong[0]:g}")
    if not any(rhos):
        raise InputError("rho needs a value above 0; 0 is always compared with")


def grid(rhos: Sequence[float], seeds: Sequence[int]) -> list[tuple[float, int]]:
    """Every (ρ, seed), seed by seed, so that a study that stops early has whole seeds."""
    return [(rho, seed) for seed in seeds for rho in rhos]
