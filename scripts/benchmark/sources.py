"""What is sent: files and trees that are made, sampled, placed and compared."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.sites import Failed

MIB = 1024 * 1024
MEDIAN_BYTES = 4_900
SIGMA = 1.6
"""Median and spread of the sizes below a /usr/include of 7,900 files and 114 MB; they are about log-normal."""
LARGEST_BYTES = 2_500_000
FILES_PER_FOLDER = 10
"""Of the same folder: 820 folders, most of them three to eight deep."""
DEEPEST = 8
FILES_PER_EQUAL_FOLDER = 1_000
"""Of files of one size: what a program that writes many of them would do."""


def make_source(path: Path, shape: str, files: int, size: int) -> None:
    """Make ``files`` of ``size`` bytes in all; their content is random, so that nothing can make it smaller."""
    SHAPES[shape](path, files, size)


def _make_file(path: Path, _: int, size: int) -> None:
    with path.open("wb", buffering=0) as out:
        for at in range(0, size, MIB):
            out.write(os.urandom(min(MIB, size - at)))


def _make_tree(path: Path, files: int, size: int) -> None:
    """Sizes and folders like those of a /usr/include; the same ones each time."""
    chance = random.Random(files)
    weights = [min(LARGEST_BYTES, MEDIAN_BYTES * chance.lognormvariate(0, SIGMA)) for _ in range(files)]
    unit = size / sum(weights)
    sizes = [int(weight * unit) for weight in weights]
    sizes[-1] += size - sum(sizes)
    folders = [path]
    path.mkdir()
    while len(folders) * FILES_PER_FOLDER < files:
        parent = chance.choice(folders)
        if len(parent.relative_to(path).parts) < DEEPEST:
            folders.append(parent / f"folder{len(folders)}")
            folders[-1].mkdir()
    for number, length in enumerate(sizes):
        (chance.choice(folders) / f"file{number}.h").write_bytes(os.urandom(length))


def _make_equal(path: Path, files: int, size: int) -> None:
    """Files of one size, so many to a folder."""
    for number in range(files):
        folder = path / f"{number // FILES_PER_EQUAL_FOLDER:04}"
        if number % FILES_PER_EQUAL_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:07}").write_bytes(os.urandom(size // files))


SHAPES: dict[str, Callable[[Path, int, int], None]] = {
    "file": _make_file,
    "tree": _make_tree,
    "equal": _make_equal,
}


def every_file(tree: Path) -> Iterator[Path]:
    """The files below a folder, in the order of their names, relative to it."""
    for folder, folders, names in os.walk(tree):
        folders.sort()
        yield from (Path(folder, name).relative_to(tree) for name in sorted(names))


def place(source: Path, destination: Path) -> None:
    """The same below another name, without its bytes again: hard links."""
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=os.link)
    else:
        os.link(source, destination)


def sample_tree(source: Path, destination: Path, files: int) -> None:
    """So many files of a tree, spread evenly over it; hard links."""
    every = list(every_file(source))
    for number in range(files):
        path = every[number * len(every) // files]
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / path, destination / path)


def remove(path: Path) -> None:
    """A file or a tree, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_same(source: Path, arrived: Path) -> None:
    """Compare files, or all files of two trees, byte by byte. Raises Failed."""
    buffers = memoryview(bytearray(MIB)), memoryview(bytearray(MIB))
    if not source.is_dir():
        _check_same_file(source, arrived, *buffers)
        return
    sent, there = list(every_file(source)), list(every_file(arrived))
    if sent != there:
        odd = min(set(sent) ^ set(there))
        raise Failed(f"{arrived.name} has {len(there)} files where {len(sent)} were sent, {odd} on one side only")
    for path in sent:
        _check_same_file(source / path, arrived / path, *buffers)


def _check_same_file(source: Path, arrived: Path, ours: memoryview, theirs: memoryview) -> None:
    try:
        with source.open("rb", buffering=0) as left, arrived.open("rb", buffering=0) as right:
            while count := left.readinto(ours):
                if right.readinto(theirs) != count or ours[:count] != theirs[:count]:
                    raise Failed(f"{arrived.name} is not what was sent")
            if right.read(1):
                raise Failed(f"{arrived.name} is longer than what was sent")
    except OSError as error:
        raise Failed(f"{arrived.name}: {error.strerror}") from error
