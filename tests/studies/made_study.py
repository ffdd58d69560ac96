"""A study of numbers that are known, through the whole pipeline: many runs in one directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.studies.runs import Runs
from lowland.studies.study import (
    Axis,
    Choice,
    Claim,
    Drawing,
    Finding,
    Line,
    Panel,
    Plan,
    Planned,
    Sheet,
    Study,
)
from lowland.studies.verdict import AtLeast
from lowland.train import Experiment, Outcome, Runnable, Watch, run_any


@dataclass(frozen=True)
class InProcess:
    """A launcher without workers, which take seconds to start."""

    name: str = "in process"
    side_by_side: int = 1

    def check(self) -> None:
        """Nothing can be wrong."""

    def launch(self, recipes: Sequence[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        """One after the other."""
        return [Outcome(recipe=recipe, folder=run_any(recipe, root)) for recipe in recipes]


def rows(*, seed: int, rho: float, first: int, count: int) -> Iterator[dict[str, float]]:
    """Value 10 - 10ρ + seed at times 1 and 10, for two ρ and `count` seeds."""
    for one in range(first, first + count):
        for radius in (0.0, 0.5):
            for time in (0, 1, 10, 100):
                value = 10 - 10 * radius + 0.1 * one
                yield {"rho": radius, "seed": one, "iteration": time, "value": value + time}


def _find(runs: Runs) -> Finding:
    seeds = runs.seeds("main")
    return Finding(
        effects={
            s: runs.final("main", 0.0, s, "value") - runs.final("main", 0.5, s, "value")
            for s in seeds
        }
    )


def _figures(runs: Runs) -> Sequence[Drawing]:
    first = runs.seeds("main")[0]
    ends = [runs.final("main", rho, first, "value") for rho in (0.0, 0.5)]
    line = Line(name="seed 0", x=[1, 2], y=ends, low=[15, float("nan")], high=[21, 17], rho=0.5)
    blocks = Axis(title="block", ticks=[(1, "first"), (2, "second")])
    return [Drawing(title="By block", x=blocks, y=Axis(title="value", percent=True), lines=[line])]


def _tables(runs: Runs) -> Sequence[Sheet]:
    return [Sheet(title="Own table", head=["what", "n"], rows=[["a", 1], ["b", None]], note="n.")]


def _plan(choice: Choice) -> Plan:
    seeds = choice.seed_range(3)
    settings = {"first": seeds.start, "count": len(seeds)}
    experiment = Experiment(function="made_study:rows", settings=settings)
    claim = Claim(
        name="falls",
        sentence="It falls.",
        source="Fig. 0",
        published="5",
        effect="fall",
        unit="",
        rule=AtLeast(1.0),
        reason="one",
        find=_find,
    )
    return Plan(
        runs=(Planned(group="main", recipe=experiment, many=True),),
        claims=(claim,),
        panels=(Panel(title="value", column="value", group="main", x="iteration", log_x=True),),
        fingerprint="none",
        figures=_figures,
        tables=_tables,
    )


STUDY = Study(
    name="made/up",
    title="Made up",
    source="nowhere",
    shows="nothing",
    sizes={"default": "a moment"},
    settings={"only": "one"},
    plan=_plan,
    data="numbers",
    exact="nothing changes",
)
