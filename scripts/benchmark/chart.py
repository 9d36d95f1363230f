"""The figures as a picture: a panel for each work, place and verb, a bar for each contender. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.contenders import CONTENDERS, VERBS
from benchmark.results import YARDSTICK
from benchmark.sites import Failed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# All lengths in inches.
WIDTH, MARGIN, NAMES, FIGURES = 11.0, 0.35, 1.45, 1.4
"""Of the picture, around it, of the names left of the bars, of the figures right of them."""
BAR, HEADING, GAP, TITLE = 0.235, 0.42, 0.16, 0.95
"""A bar's share of the height, a panel's heading, the space below a panel, the picture's title."""
OURS, VERIFYING, OTHER = "#0b7285", "#868e96", "#ced4da"
INK, PALE = "#212529", "#868e96"
LONGEST = 1.75
"""How many times the slower of ftpy's bars and rsync's fits on the axis; a longer bar is cut, and shown to be."""
TIMES = "\N{MULTIPLICATION SIGN}"
SHORT_SECONDS = 0.5
"""An axis that ends before is in milliseconds."""
LEGEND = {
    "ftpy, verified and durable": OURS,
    "compares digests on both ends, too": VERIFYING,
    "does not": OTHER,
}


@dataclass(frozen=True)
class Panel:
    """One work in one verb: its heading, what it was done on, and the rows of its summary, the fastest first."""

    heading: str
    note: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def height(self) -> float:
        """With its heading and the space below."""
        return HEADING + BAR * len(self.rows) + GAP


def unfit() -> str | None:
    """Why there can be no chart; None where there can."""
    if importlib.util.find_spec("matplotlib") is None:
        return f"no chart: {sys.executable} has no matplotlib (the extra `bench` installs it)"
    return None


def draw(machine: Mapping[str, str], runs: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write bench.png and bench.svg. Raises Failed where matplotlib is missing or nothing was measured."""
    lines = list(in_lines(panels_of(runs)))
    if not lines:
        raise Failed("no chart: nothing was measured")
    if missing := unfit():
        raise Failed(missing)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"font.size": 8.5, "font.family": "DejaVu Sans", "text.color": INK, "svg.hashsalt": "bench"}):
        height = TITLE + sum(max(panel.height for panel in line) for line in lines) + MARGIN
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        _head(figure, machine, runs, height)
        top = height - TITLE
        for line in lines:
            for column, panel in enumerate(line):
                _panel(figure, panel, column, top, height)
            top -= max(panel.height for panel in line)
        figure.savefig(folder / "bench.png", dpi=160)
        figure.savefig(folder / "bench.svg", metadata={"Date": None})


def panels_of(runs: Iterable[Mapping[str, Any]]) -> list[list[Panel]]:
    """The panels of each run: one for each verb that was measured."""
    return [[panel for verb in VERBS if (panel := _panel_of(run, verb)) is not None] for run in runs]


def _panel_of(run: Mapping[str, Any], verb: str) -> Panel | None:
    rows = sorted((row for row in run["summary"] if row["verb"] == verb), key=lambda row: row["seconds"])
    place = "on disk" if run["on_disk"] else "in memory"
    return Panel(f"{verb}  {run['title']}", place, tuple(rows)) if rows else None


def in_lines(groups: Iterable[Sequence[Panel]]) -> Iterator[Sequence[Panel]]:
    """Two panels side by side: those of one run, and lone ones with each other."""
    lone: list[Panel] = []
    for group in groups:
        if len(group) == 2:
            yield group
        else:
            lone += group
    yield from (lone[at : at + 2] for at in range(0, len(lone), 2))


def _head(figure: Figure, machine: Mapping[str, str], runs: Sequence[Mapping[str, Any]], height: float) -> None:
    left, rounds = MARGIN / WIDTH, sorted({run["rounds"] for run in runs})
    figure.text(left, 1 - 0.3 / height, "Seconds, fewer are better", size=14, weight="bold", va="center")
    counts = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    said = f"whole processes, both ends on one machine ({machine['processor']}), medians of {counts} interleaved rounds"
    sampled = any(row["part"] < 1 for run in runs for row in run["summary"])
    signs = f"{TIMES}: of {YARDSTICK}'s time" + ("; ~: from some of the files" if sampled else "")
    figure.text(left, 1 - 0.55 / height, f"{said}; {signs}", color=PALE, va="center")
    at = left
    for text, color in LEGEND.items():
        figure.text(at, 1 - 0.78 / height, "■", color=color, va="center", size=11)
        figure.text(at + 0.16 / WIDTH, 1 - 0.785 / height, text, va="center")
        at += (0.45 + 0.066 * len(text)) / WIDTH


def _panel(figure: Figure, panel: Panel, column: int, top: float, height: float) -> None:
    half = (WIDTH - MARGIN) / 2
    left, wide = MARGIN + column * half, half - NAMES - FIGURES
    bars = BAR * len(panel.rows)
    figure.text(left / WIDTH, (top - HEADING + 0.13) / height, panel.heading, weight="bold", size=9.5)
    right = (left + half - MARGIN) / WIDTH
    figure.text(right, (top - HEADING + 0.13) / height, panel.note, color=PALE, ha="right")
    box = ((left + NAMES) / WIDTH, (top - HEADING - bars) / height, wide / WIDTH, bars / height)
    axes: Axes = figure.add_axes(box)
    limit = longest(panel.rows)
    axes.set(xlim=(0, limit), ylim=(len(panel.rows) - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(OTHER)
    for at, row in enumerate(panel.rows):
        _bar(axes, at, row, limit)


def longest(rows: Sequence[Mapping[str, Any]]) -> float:
    """Where the axis ends, in seconds."""
    known: list[float] = [
        row["seconds"] for row in rows if CONTENDERS[row["contender"]].ours or row["contender"] == YARDSTICK
    ]
    slowest: float = max(row["seconds"] for row in rows)
    return min(slowest, LONGEST * max(known)) if known else slowest


def _bar(axes: Axes, at: int, row: Mapping[str, Any], limit: float) -> None:
    contender = CONTENDERS[row["contender"]]
    color = OURS if contender.ours else VERIFYING if contender.verifies else OTHER
    length = min(row["seconds"], limit)
    axes.barh(at, length, height=0.72, color=color)
    if row["seconds"] > limit:
        for part in (0.93, 0.95):
            cut = [part * limit, (part + 0.012) * limit]
            axes.plot(cut, [at + 0.5, at - 0.5], color="white", linewidth=1.6, solid_capstyle="butt")
    weight = "bold" if contender.ours else "normal"
    axes.annotate(contender.label, (0, at), (-5, 0), textcoords="offset points", ha="right", va="center", weight=weight)
    figures = f"{'~' if row['part'] < 1 else ''}{as_seconds(row['seconds'], limit)}"
    told = axes.annotate(
        figures, (length, at), (4, 0), textcoords="offset points", va="center", weight=weight, annotation_clip=False
    )
    if row["ratio"] is not None:
        axes.annotate(f" {as_times(row['ratio'])}", (1, 0.5), xycoords=told, va="center", color=PALE)


def as_seconds(seconds: float, limit: float) -> str:
    """About three digits that count; the unit is that of the whole axis."""
    if limit < SHORT_SECONDS:
        return f"{seconds * 1000:,.0f} ms"
    digits = 2 if seconds < 10 else 1 if seconds < 100 else 0
    return f"{seconds:,.{digits}f} s"


def as_times(ratio: float) -> str:
    """Two digits that count."""
    return f"{ratio:.2f}{TIMES}" if ratio < 10 else f"{ratio:,.0f}{TIMES}"
