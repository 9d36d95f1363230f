"""Medians, ratios and aims; as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.contenders import AIMS, CONTENDERS, Aim
from benchmark.measuring import VERBS, Bench, Sample


@dataclass(frozen=True)
class Row:
    """A contender's medians in one verb, and how it stands against its rival where it has one."""

    verb: str
    contender: str
    seconds: float
    fastest_seconds: float
    slowest_seconds: float
    megabytes_per_second: float
    client_processor_seconds: float
    server_processor_seconds: float
    rival: str | None = None
    ratio: float | None = None
    aim: float | None = None
    reached: bool | None = None


def summarize(samples: Sequence[Sample], size: int, aims: Sequence[Aim] = AIMS) -> list[Row]:
    """A row for every verb and contender that was measured; ratios are of medians."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.verb, sample.contender), []).append(sample)
    medians = {key: statistics.median(sample.seconds for sample in group) for key, group in groups.items()}
    aim_of = {aim.contender: aim for aim in aims}
    order = list(CONTENDERS)
    rows = []
    for verb, name in sorted(groups, key=lambda key: (VERBS.index(key[0]), order.index(key[1]))):
        group, seconds = groups[verb, name], medians[verb, name]
        against: dict[str, Any] = {}
        aim = aim_of.get(name)
        if aim is not None and (rival_seconds := medians.get((verb, aim.rival))):
            ratio = seconds / rival_seconds
            against = {"rival": aim.rival, "ratio": ratio, "aim": aim.most, "reached": ratio <= aim.most}
        rows.append(
            Row(
                verb=verb,
                contender=name,
                seconds=seconds,
                fastest_seconds=min(sample.seconds for sample in group),
                slowest_seconds=max(sample.seconds for sample in group),
                megabytes_per_second=size / 1e6 / seconds,
                client_processor_seconds=statistics.median(sample.client_processor_seconds for sample in group),
                server_processor_seconds=statistics.median(sample.server_processor_seconds for sample in group),
                **against,
            )
        )
    return rows


HEADINGS = ("verb", "contender", "median s", "min..max s", "MB/s", "cpu s: client", "server", "against", "ratio", "aim")


def as_table(rows: Sequence[Row]) -> str:
    """The rows as text, columns aligned; numbers to the right."""
    cells = [HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = {0, 1, 7, 9}
    lines = (
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.aim is None else f"<= {row.aim:.2f} {'reached' if row.reached else 'MISSED'}"
    return (
        row.verb,
        row.contender,
        f"{row.seconds:.3f}",
        f"{row.fastest_seconds:.2f}..{row.slowest_seconds:.2f}",
        f"{row.megabytes_per_second:.0f}",
        f"{row.client_processor_seconds:.2f}",
        f"{row.server_processor_seconds:.2f}",
        row.rival or "",
        "" if row.ratio is None else f"{row.ratio:.3f}",
        verdict,
    )


def report(bench: Bench, machine: Mapping[str, str], size: int, rounds: int, path: Path | None) -> None:
    """The table on standard output, and every figure as JSON into ``path`` where there is one."""
    rows = summarize(bench.samples, size)
    seconds = sum(sample.seconds for sample in bench.samples)
    others = sum(sample.other_processor_seconds for sample in bench.samples) / seconds if seconds else 0.0
    facts = dict(machine) | {
        "work": f"one file of {size:,} bytes; medians of {rounds} rounds",
        "quiet": f"other processes used {others:.2f} of a core meanwhile",
    }
    for key, value in facts.items():
        print(f"{key:10}  {value}")
    print(f"\n{as_table(rows)}")
    for name, reason in (bench.left_out | bench.failed).items():
        print(f"{name}: left out, {reason}")
    if path is not None:
        document = {
            "format": 1,
            "work": {"name": "file", "size_bytes": size, "rounds": rounds},
            "machine": dict(machine),
            "other_cores_used": others,
            "servers": {name: server.pid for name, server in bench.servers.items()},
            "left_out": bench.left_out,
            "failed": bench.failed,
            "summary": [asdict(row) for row in rows],
            "samples": [asdict(sample) for sample in bench.samples],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
