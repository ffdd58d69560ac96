"""What a study draws and lists beside its panels, as plain values: figures and tables.

A panel is a column over training and against ρ. A `Drawing` is any other figure: lines and marks
over an axis that the study names, for example the block of a network or the bits of a quantizer.
A `HeatMap` shows one number over two grids, for example width and ρ. A `Sheet` is a table of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["lines", "markers", "lines+markers"]
Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a drawing.

    Attributes:
        title: what it is, with its unit.
        log: logarithmic.
        percent: values are shares, shown times 100.
        ticks: places with words, for an axis of named things; None for numbers.
    """

    title: str
    log: bool = False
    percent: bool = False
    ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line or set of marks.

    Attributes:
        name: for the legend.
        x, y: places and values; None where there is nothing, which breaks the line.
        low, high: ends of intervals, or None.
        mode: how it is drawn.
        rho: its ρ, which gives it the colour that this ρ has on the whole page; None for another.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    mode: Mode = "lines+markers"
    rho: float | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure.

    Attributes:
        title: what it shows.
        x, y: the axes.
        lines: what is drawn.
        note: how to read it, in a sentence.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A figure of one number in every cell of a grid.

    Attributes:
        title: what it shows.
        columns, rows: words along the axes, from left to right and from bottom to top.
        column_title, row_title: what they are.
        values: one row of cells for each of `rows`; None where there is nothing.
        value_title: what is in a cell, with its unit.
        percent: values are shares, shown times 100.
        signed: colours diverge from zero, so that gains and losses are told apart; otherwise they
            go from the smallest value to the largest.
        note: how to read it, in a sentence.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    column_title: str
    row_title: str
    values: Sequence[Sequence[float | None]]
    value_title: str
    percent: bool = False
    signed: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table.

    Attributes:
        title: what it lists.
        head: one heading per column.
        rows: cells; None where there is nothing.
        note: how to read it, in a sentence.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
