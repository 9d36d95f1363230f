"""Progress bars: one for a file, two for a tree; on a terminal only."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from ftpy.client.results import Progress
from ftpy.files import display

if TYPE_CHECKING:
    from tqdm import tqdm

    from ftpy.client.trees import TreeProgress

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt} {remaining}{postfix}"
FORMAT_OPEN_ENDED = "{desc} {n_fmt} {rate_fmt}{postfix}"


class Bar:
    """Shows a transfer's progress on standard error; shows nothing where that is no terminal, or when ``quiet``."""

    def __init__(self, name: str, *, quiet: bool, position: int | None = None) -> None:
        self._name = display(name)
        self._position = position
        self._shown = not quiet and sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show where it is: each phase counts from its own beginning, the rate from what was there before."""
        if not self._shown:
            return
        if self._bar is None:
            self._bar = self._open(progress)
        elif progress.phase != self._phase:
            self._begin(self._bar, progress)
        self._phase = progress.phase
        self._bar.update(progress.done - self._bar.n)

    @staticmethod
    def _begin(bar: tqdm[NoReturn], progress: Progress) -> None:
        """Start the bar anew: what is done already counts for neither rate nor time left."""
        bar.initial = 0
        bar.set_postfix_str(progress.phase, refresh=False)
        bar.reset(progress.total)  # draws
        bar.initial = bar.n = bar.last_print_n = progress.done
        bar.refresh()

    def _open(self, progress: Progress) -> tqdm[NoReturn]:
        from tqdm import tqdm

        return tqdm(
            desc=self._name,
            total=progress.total,
            initial=progress.done,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=sys.stderr,
            position=self._position,
            leave=False,
            dynamic_ncols=True,
            postfix=progress.phase,
            bar_format=FORMAT if progress.total is not None else FORMAT_OPEN_ENDED,
        )

    def say(self, line: str) -> None:
        """A line on standard error that does not tear the bar."""
        if self._bar is not None:
            self._bar.clear()
        _write(line)
        if self._bar is not None:
            self._bar.refresh()


class TreeBars:
    """The whole of a tree (bytes, and files beside them), and below it the large file that is under way."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._quiet = quiet
        self._whole: tqdm[NoReturn] | None = None
        self._name = display(name)
        self._shown = not quiet and sys.stderr.isatty()
        self._current = ""
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_current()
        if self._whole is not None:
            self._whole.close()

    def __call__(self, progress: TreeProgress) -> None:
        """Show how far the tree is; the totals are marked with a + while they still grow."""
        if not self._shown:
            return
        if self._whole is None:
            self._whole = _open_whole(self._name)
        whole, more = self._whole, "" if progress.known else "+"
        whole.total = progress.total_bytes or None
        whole.set_postfix_str(f"{progress.files:,}/{progress.total_files:,}{more} files", refresh=False)
        whole.n = progress.bytes + (progress.part.done if progress.part else 0)
        whole.refresh()
        if progress.part is None or progress.current != self._current:
            self._end_current()
        if progress.part is not None:
            if self._bar is None:
                self._current = progress.current
                self._bar = Bar(f"  {os.path.basename(progress.current)}", quiet=self._quiet, position=1)
            self._bar(progress.part)

    def _end_current(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is written inside does not tear the bars."""
        if self._whole is not None:
            self._end_current()
            self._whole.clear()
        yield
        if self._whole is not None:
            self._whole.refresh()

    def say(self, line: str) -> None:
        """A line on standard error that does not tear the bars."""
        with self.paused():
            _write(line)


def _open_whole(name: str) -> tqdm[NoReturn]:
    from tqdm import tqdm

    return tqdm(
        desc=name,
        total=1,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
        bar_format=FORMAT,
    )


def _write(line: str) -> None:
    sys.stderr.write(display(line) + "\n")
    sys.stderr.flush()
