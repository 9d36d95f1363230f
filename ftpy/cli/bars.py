"""Progress bars: one per file, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from ftpy.client.results import Progress
from ftpy.files import display

if TYPE_CHECKING:
    from tqdm import tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt} {remaining}{postfix}"
FORMAT_OPEN_ENDED = "{desc} {n_fmt} {rate_fmt}{postfix}"


class Bar:
    """Shows a transfer's progress on standard error; shows nothing where that is no terminal, or when ``quiet``."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name = display(name)
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
            leave=False,
            dynamic_ncols=True,
            postfix=progress.phase,
            bar_format=FORMAT if progress.total is not None else FORMAT_OPEN_ENDED,
        )

    def say(self, line: str) -> None:
        """A line on standard error that does not tear the bar."""
        if self._bar is not None:
            self._bar.clear()
        sys.stderr.write(display(line) + "\n")
        sys.stderr.flush()
        if self._bar is not None:
            self._bar.refresh()
