"""Lines that somebody types into ``ftpy shell``: cut into words, edited with readline where there is one, completed."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable
from types import ModuleType

import click
from click.shell_completion import CompletionItem, ShellComplete

from ftpy.cli.completing import FOLDER, local_names
from ftpy.cli.history import add_history, history_path, read_history

SEPARATORS = " \t\n"
UNSAFE = frozenset("\\'\" \t")
"""Letters that mean something to ``split``."""


def split(line: str) -> list[str]:
    """The words of a line, as a POSIX shell reads quotes and backslashes; nothing else has a meaning of its own.

    On Windows a backslash is one, as paths there have them. Raises ValueError for a quote that is not closed.
    """
    return list(_lexer(line))


def _lexer(line: str) -> shlex.shlex:
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if os.name == "nt":
        lexer.escape = ""
    return lexer


def split_last(line: str) -> tuple[list[str], str, str, str]:
    """The words before the last one, which may be empty; that one as it was typed, what it means, its open quote."""
    start, quote, escaped, within = 0, "", False, False
    last: list[str] = []
    for at, letter in enumerate(line):
        if not within:
            if letter in SEPARATORS:
                continue
            start, within, last = at, True, []
        if escaped:
            last.append(letter if not quote or letter in '"\\' else "\\" + letter)
            escaped = False
        elif letter == "\\" and quote != "'" and os.name != "nt":
            escaped = True
        elif quote:
            if letter == quote:
                quote = ""
            else:
                last.append(letter)
        elif letter in "'\"":
            quote = letter
        elif letter in SEPARATORS:
            within = False
        else:
            last.append(letter)
    if not within:
        start, last = len(line), []
    return split(line[:start]), line[start:], "".join(last), quote


def spelled(text: str, quote: str) -> str:
    """What is added to a word so that it means ``text`` more: after this open quote, or where there is none."""
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote == '"':
        return "".join("\\" + letter if letter in '"\\' else letter for letter in text)
    if os.name == "nt":
        return text
    return "".join("\\" + letter if letter in UNSAFE else letter for letter in text)


def completions(group: click.Group, line: str) -> tuple[int, list[str]]:
    """Where the last word of a line begins, and what it could be, as one would type it."""
    try:
        before, typed, meant, quote = split_last(line)
    except ValueError:
        return len(line), []
    completer = ShellComplete(group, {}, "", "")
    found: list[CompletionItem] = []
    for item in completer.get_completions(before, meant):
        found += local_names(meant) if item.type in ("file", "dir") else [item]
    items = [item for item in found if item.value.startswith(meant)]
    ends = {True: "", False: quote + " "}
    added = [spelled(item.value[len(meant) :], quote) + ends[item.type == FOLDER] for item in items]
    return len(line) - len(typed), [typed + more for more in dict.fromkeys(added)]


class Editor:
    """Asks for one line after the other; with history and completion where Python has readline."""

    def __init__(self, group: click.Group) -> None:
        self._group = group
        self._found: list[str] = []
        self._readline = _readline()
        self._typed: list[str] = []

    @property
    def colours(self) -> bool:
        """Whether a prompt may have them: GNU's readline can be told that they take no room."""
        return self._readline is None or not _is_libedit(self._readline)

    def __enter__(self) -> Editor:
        if (readline := self._readline) is not None:
            readline.set_completer(self._complete)
            readline.set_completer_delims(SEPARATORS)
            readline.parse_and_bind("bind ^I rl_complete" if _is_libedit(readline) else "tab: complete")
            with contextlib.suppress(OSError):
                for line in read_history(history_path()):
                    readline.add_history(line)
        return self

    def __exit__(self, *_: object) -> None:
        if (readline := self._readline) is not None:
            readline.set_completer(None)
            with contextlib.suppress(OSError):  # a history that cannot be kept is no error of what was done
                add_history(history_path(), self._typed)

    def ask(self, prompt: str) -> str:
        """One line. Raises EOFError for Ctrl-D, KeyboardInterrupt."""
        line = input(prompt)
        if line.strip():
            self._typed.append(line)
        return line

    def _complete(self, _: str, state: int) -> str | None:
        """One after the other, as readline asks for them: what replaces the part that it takes for the word."""
        assert self._readline is not None
        if state == 0:
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            start, found = completions(self._group, line)
            cut = self._readline.get_begidx() - start
            self._found = [one[cut:] for one in found]
        return self._found[state] if state < len(self._found) else None


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # Windows
        return None
    return readline


def _is_libedit(readline: ModuleType) -> bool:
    return "libedit" in (readline.__doc__ or "")


Ask = Callable[[str], str]
