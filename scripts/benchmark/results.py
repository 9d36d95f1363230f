"""Medians, ratios and aims; as tables and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.contenders import CONTENDERS, VERBS
from benchmark.measuring import Bench, Sample
from benchmark.works import Aim, Work

YARDSTICK = "rsync"
"""The contender that all of a work are divided by, for the eye; the aims say which rival counts."""


@dataclass(frozen=True)
class Row:
    """A contender's medians in one verb; ``part`` below 1 says that it moved that part only and time is scaled."""

    verb: str
    contender: str
    part: float
    seconds: float
    fastest_seconds: float
    slowest_seconds: float
    megabytes_per_second: float
    files_per_second: float
    client_processor_seconds: float
    server_processor_seconds: float
    ratio: float | None
    """To rsync in the same verb, where that took part."""


@dataclass(frozen=True)
class Verdict:
    """A figure beside what it should be."""

    verb: str
    contender: str
    measure: str
    figure: float
    bound: float
    rival: str | None
    reached: bool


def summarize(samples: Sequence[Sample], work: Work) -> list[Row]:
    """A row for every verb and contender that was measured."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.verb, sample.contender), []).append(sample)
    order = list(CONTENDERS)
    seconds = {key: _scaled(group, "seconds", work) for key, group in groups.items()}
    rows = []
    for key in sorted(groups, key=lambda key: (VERBS.index(key[0]), order.index(key[1]))):
        verb, name = key
        group, median = groups[key], statistics.median(seconds[key])
        yardstick = seconds.get((verb, YARDSTICK))
        rows.append(
            Row(
                verb=verb,
                contender=name,
                part=group[0].files / work.files,
                seconds=median,
                fastest_seconds=min(seconds[key]),
                slowest_seconds=max(seconds[key]),
                megabytes_per_second=work.size / 1e6 / median,
                files_per_second=work.files / median,
                client_processor_seconds=statistics.median(_scaled(group, "client_processor_seconds", work)),
                server_processor_seconds=statistics.median(_scaled(group, "server_processor_seconds", work)),
                ratio=median / statistics.median(yardstick) if yardstick else None,
            )
        )
    return rows


def _scaled(group: Iterable[Sample], what: str, work: Work) -> list[float]:
    """What samples say of their files, for all files."""
    return [getattr(sample, what) * work.files / sample.files for sample in group]


@dataclass(frozen=True)
class Measure:
    """How a figure comes from a row (and the fastest rival's, where it is a comparison), and whether more is better."""

    figure: Callable[[Row, Row | None], float]
    more: bool
    text: str


def _ratio(row: Row, rival: Row | None) -> float:
    assert rival is not None
    return row.seconds / rival.seconds


MEASURES = {
    "ratio": Measure(_ratio, False, "{:.3f}"),
    "seconds": Measure(lambda row, _: row.seconds, False, "{:.3f} s"),
    "files/s": Measure(lambda row, _: row.files_per_second, True, "{:,.0f} files/s"),
}


def judge(rows: Iterable[Row], aims: Iterable[Aim]) -> list[Verdict]:
    """A verdict for every aim whose contender, and one rival where it names any, was measured."""
    by_key = {(row.verb, row.contender): row for row in rows}
    verdicts = []
    for verb in VERBS:
        for aim in aims:
            row = by_key.get((verb, aim.contender))
            rivals = [by_key[verb, name] for name in aim.rivals if (verb, name) in by_key]
            if row is None or verb not in aim.verbs or (aim.rivals and not rivals):
                continue
            rival = min(rivals, key=lambda one: one.seconds, default=None)
            measure = MEASURES[aim.measure]
            figure = measure.figure(row, rival)
            reached = figure >= aim.bound if measure.more else figure <= aim.bound
            name = rival.contender if rival is not None else None
            verdicts.append(Verdict(verb, aim.contender, aim.measure, figure, aim.bound, name, reached))
    return verdicts


HEADINGS = (
    *("verb", "contender", "median s", "min..max s", "MB/s", "files/s"),
    *("cpu s: client", "server", f"x {YARDSTICK}"),
)
AIM_HEADINGS = ("verb", "aim of", "against", "figure", "should be", "")


def as_table(rows: Sequence[Row], many: bool) -> str:
    """The rows as text; files a second only where there are many."""
    cells = [HEADINGS, *map(_cells, rows)]
    return _aligned([line if many else line[:5] + line[6:] for line in cells], {0, 1})


def as_aims(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as text."""
    return _aligned([AIM_HEADINGS, *map(_aim_cells, verdicts)], {0, 1, 2, 5})


def _aligned(cells: Sequence[Sequence[str]], left: set[int]) -> str:
    """Columns aligned: those of ``left`` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.verb,
        row.contender,
        f"{'~' if row.part < 1 else ''}{row.seconds:.3f}",
        f"{row.fastest_seconds:.2f}..{row.slowest_seconds:.2f}",
        f"{row.megabytes_per_second:.0f}",
        f"{row.files_per_second:,.0f}",
        f"{row.client_processor_seconds:.2f}",
        f"{row.server_processor_seconds:.2f}",
        "" if row.ratio is None else f"{row.ratio:.3f}",
    )


def _aim_cells(verdict: Verdict) -> tuple[str, ...]:
    measure = MEASURES[verdict.measure]
    bound = f"{'>=' if measure.more else '<='} {measure.text.format(verdict.bound)}"
    figure = measure.text.format(verdict.figure)
    reached = "reached" if verdict.reached else "MISSED"
    return verdict.verb, verdict.contender, verdict.rival or "", figure, bound, reached


def as_document(bench: Bench, place: str, rounds: int) -> dict[str, Any]:
    """One work at one place, for the JSON and the chart."""
    rows = summarize(bench.samples, bench.work)
    seconds = sum(sample.seconds for sample in bench.samples)
    others = sum(sample.other_processor_seconds for sample in bench.samples)
    line = bench.work.line
    return {
        "work": bench.work.name,
        "title": bench.work.title(),
        "place": place,
        "on_disk": bench.on_disk,
        "files": bench.work.files,
        "size_bytes": bench.work.size,
        "line": asdict(line) if line is not None else None,
        "rounds": rounds,
        "other_cores_used": others / seconds if seconds else 0.0,
        "servers": {name: server.pid for name, server in bench.servers.items()},
        "left_out": bench.left_out,
        "failed": bench.failed,
        "summary": [asdict(row) for row in rows],
        "aims": [asdict(verdict) for verdict in judge(rows, bench.work.aims)],
        "samples": [asdict(sample) for sample in bench.samples],
    }


def as_text(run: Mapping[str, Any]) -> str:
    """What a run is told as on standard output."""
    rows = [Row(**row) for row in run["summary"]]
    verdicts = [Verdict(**verdict) for verdict in run["aims"]]
    others = f"others used {run['other_cores_used']:.2f} of a core"
    parts = [f"{run['work']}: {run['title']}, on {run['place']}; rounds: {run['rounds']}; {others}"]
    if rows:
        parts.append(as_table(rows, run["files"] > 1))
    if any(row.part < 1 for row in rows):
        parts.append("~ moved some of the files only; its figures are scaled to all of them")
    if verdicts:
        parts.append(f"\n{as_aims(verdicts)}")
    parts += [f"{name}: left out, {reason}" for name, reason in (run["left_out"] | run["failed"]).items()]
    return "\n".join(parts)


def write_json(path: Path, machine: Mapping[str, str], runs: Sequence[Mapping[str, Any]]) -> None:
    """Every figure up to now."""
    document = {"format": 2, "machine": dict(machine), "runs": list(runs)}
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_json(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Machine and runs of an earlier ``write_json``. Raises ValueError, OSError."""
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or document.get("format") != 2:
        raise ValueError(f"{path} is no JSON of this bench (format 2)")
    return document["machine"], document["runs"]
