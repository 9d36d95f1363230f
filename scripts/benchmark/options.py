"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import fnmatch
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.contenders import CONTENDERS, VERBS
from benchmark.works import GROUPS, PLACES, USUAL, WORKS, find_works

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
FOLDERS = {"tmpfs": Path("/dev/shm"), "disk": Path("/var/tmp")}
"""Where the places are, if the system has these folders."""


def parse_size(text: str) -> int:
    """``1GiB``, ``64MiB``, ``500kB``, ``1234``: bytes."""
    found = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", text)
    if found is None or found[2] not in UNITS or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: 1GiB, 64MiB, 500kB, 1234")
    return int(found[1]) * UNITS[found[2]]


def parse_count(text: str) -> int:
    """A whole number over 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number over 0")
    return int(text)


def parse_names(known: Sequence[str], find: Callable[[str], list[str]] | None = None) -> Callable[[str], list[str]]:
    """A parser of names and patterns, divided by commas: those of ``known`` that are meant, in its order.

    ``find`` gives what one pattern means, where that is more than a pattern.
    """

    def parse(text: str) -> list[str]:
        meant: set[str] = set()
        for pattern in (part.strip() for part in text.split(",")):
            found = find(pattern) if find is not None else fnmatch.filter(known, pattern)
            if not found:
                raise argparse.ArgumentTypeError(f"{pattern!r} is none of {', '.join(known)}")
            meant.update(found)
        return [name for name in known if name in meant]

    return parse


def parse_where(text: str) -> list[str]:
    """``tmpfs``, ``disk``, ``both``, or a folder: names of places, or one path."""
    if text == "both":
        return list(PLACES)
    if text not in PLACES and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is neither tmpfs, disk, both nor a folder")
    return [text]


def folder_of(place: str) -> Path:
    """Where a place is."""
    folder = FOLDERS.get(place, Path(place))
    return folder if folder.is_dir() else Path(tempfile.gettempdir())


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    everyone = list(CONTENDERS)
    rivals = [name for name in everyone if not CONTENDERS[name].ours]
    add, names = parser.add_argument, "NAME,..."
    work = f"what to do: {', '.join(WORKS)}; {', '.join(GROUPS)}; or patterns ({','.join(USUAL)})"
    add("--work", type=parse_names(list(WORKS), find_works), metavar=names, help=work)
    add("--rounds", type=parse_count, default=3, help="that count (3); quick works do more, long ones fewer of them")
    add("--size", type=parse_size, help="of the one big file (1GiB)")
    add("--files", type=parse_count, help="in a tree (8000; many: 100000)")
    where = "tmpfs, disk (/var/tmp), both, or a folder (each work where it belongs: many on disk, the others on tmpfs)"
    add("--where", type=parse_where, default=[], help=where)
    add("--verbs", type=parse_names(VERBS), default=list(VERBS), metavar="put,get", help="put,get")
    add("--only", type=parse_names(everyone), default=everyone, metavar=names, help=f"of {', '.join(everyone)}")
    add("--rivals", type=parse_names(rivals), default=rivals, metavar=names, help="beside ftpy's own, only these")
    add("--workers", type=parse_count, help="processes of ftpy's server (its own default)")
    add("--json", type=Path, metavar="FILE", help="write every figure there, too")
    add("--chart", type=Path, metavar="FOLDER", help="draw bench.png and bench.svg there; needs matplotlib")
    add(
        "--draw",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: chart what --json wrote, or what of it is chosen",
    )
    add("--timeout", type=parse_count, default=600, metavar="SECONDS", help="that one client may take (600)")
    patience = "seconds to wait, for each contender in each round, until other processes leave the machine alone (0)"
    add("--patience", type=parse_count, default=0, metavar="SECONDS", help=patience)
    chosen = parser.parse_args()
    if chosen.draw and not chosen.chart:
        parser.error("--draw needs --chart FOLDER, too")
    chosen.work = chosen.work or list(WORKS if chosen.draw else USUAL)
    chosen.contenders = [name for name in chosen.only if CONTENDERS[name].ours or name in chosen.rivals]
    return chosen
