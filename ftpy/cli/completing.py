"""Completion: what can follow what somebody has typed, in bash, zsh, fish and ftpy's own shell.

The commands and options are click's to complete. Names come from where they are kept: profiles from the settings,
users from the server's, paths from the server, which is asked for a short time only. What cannot be told completes to
nothing: an error in the middle of a line that somebody types helps nobody.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, TypeVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    shell_complete,
)

from ftpy.errors import FtpyError
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.files import FileInfo

ASK_SECONDS = 2.0
"""How long a server is asked: longer, and who typed has long typed on."""
MOST_NAMES = 10_000
"""Names that fit, of one folder; of more nobody picks one."""

FOLDER = "folder"
"""The type of an item that goes on behind its slash, so that no space follows it; the others are click's."""

EXPANDED = frozenset("$`")
"""What bash 5.2 inserts without a quote, though it quotes all else, where no file here has the name."""

T = TypeVar("T")


# ------------------------------------------------------------------ names


def remote_names(server: str | None, incomplete: str) -> list[CompletionItem]:
    """Paths on the server that begin like this."""
    from ftpy.cli.names import remote_path

    begin = incomplete.rpartition("/")[2]
    before = incomplete[: len(incomplete) - len(begin)]
    try:
        where = remote_path(before)
    except FtpyError:
        return []

    def fitting(client: Client) -> Iterator[FileInfo]:
        return (info for info in client.ls(where) if _fits(info.path.name, begin))

    found = ((info.path.name, info.type == "directory") for info in ask(server, fitting))
    return _items(before, found)


def local_names(incomplete: str) -> list[CompletionItem]:
    """Paths on this side that begin like this."""
    begin = os.path.basename(incomplete)
    before = incomplete[: len(incomplete) - len(begin)]
    with contextlib.suppress(OSError), os.scandir(os.path.expanduser(before) or ".") as entries:
        return _items(before, [(one.name, one.is_dir()) for one in entries if _fits(one.name, begin)])
    return []


def _fits(name: str, begin: str) -> bool:
    """Whether it can be typed and shown as it is, begins so, and is meant: hidden ones are by a dot."""
    return name.startswith(begin) and name.startswith(".") <= begin.startswith(".") and display(name) == name


def _items(before: str, found: Iterable[tuple[str, bool]]) -> list[CompletionItem]:
    return [
        CompletionItem(f"{before}{name}/", type=FOLDER) if folder else CompletionItem(before + name)
        for name, folder in sorted(found)
        if before or not name.startswith("-")  # it would be an option
    ]


def words(incomplete: str, found: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    """Words that begin like this, each with what it is."""
    return [
        CompletionItem(word, help=display(told) or None)
        for word, told in found
        if word.startswith(incomplete) and display(word) == word
    ]


def ask(server: str | None, question: Callable[[Client], Iterable[T]]) -> list[T]:
    """All that the server answers; nothing where it does not answer, or not all of it in time.

    It is asked by a thread of its own, for nothing else has an end in time for sure: not even looking up its name.
    """
    import threading

    answers: list[T] = []
    done = threading.Event()

    def run() -> None:
        with contextlib.suppress(FtpyError, OSError), _brief(server) as client:
            for answer in question(client):
                answers.append(answer)
                if len(answers) > MOST_NAMES:
                    return
            done.set()

    thread = threading.Thread(target=run, name="ftpy-completing", daemon=True)
    thread.start()
    thread.join(ASK_SECONDS)
    return list(answers) if done.is_set() else []


def _brief(server: str | None) -> Client:
    """A client that waits for nothing: not connected yet."""
    import msgspec

    from ftpy.client.client import Client
    from ftpy.config.client import choose_profile, client_config_path, load_client_config

    config = load_client_config(client_config_path())
    _, profile = choose_profile(config, server)
    brief = {"connect_seconds": ASK_SECONDS, "stall_seconds": ASK_SECONDS, "retries": 0, "streams": 1}
    return Client(profile, msgspec.structs.replace(config.transfer, **brief))


# ------------------------------------------------------------------ shells


class Bash(BashComplete):
    """For bash 4.4 and later; readline quotes what is inserted as it quotes names of files.

    What it does not quote is not offered: a name that somebody chose on the server would be run here.
    """

    source_template: ClassVar[str] = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1"); do
        case ${line%%%%,*} in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            folder) compopt -o nospace -o filenames; COMPREPLY+=("${line#*,}") ;;
            plain) compopt -o filenames; COMPREPLY+=("${line#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What can follow; files and folders here are the shell's to find and to quote."""
        found = super().get_completions(args, incomplete)
        return [item for item in found if item.type in ("file", "dir") or EXPANDED.isdisjoint(item.value)]


class Zsh(ZshComplete):
    """For zsh; what is inserted is quoted by it."""

    source_template: ClassVar[str] = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response words_alone folders described
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key descr in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            folder) folders+=("$key") ;;
            plain) [[ $descr == _ ]] && words_alone+=("$key") || described+=("$key:$descr") ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#folders )) && compadd -U -S '' -V folders -a folders
    (( $#words_alone )) && compadd -U -V unsorted -a words_alone
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class Fish(FishComplete):
    """For fish; what is inserted is quoted by it, and no space follows a slash."""

    source_template: ClassVar[str] = """\
function %(complete_func)s
    for line in (%(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) %(prog_name)s)
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case dir
                __fish_complete_directories $item[2]
            case file
                __fish_complete_path $item[2]
            case folder plain
                echo $item[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

    def format_completion(self, item: CompletionItem) -> str:
        """A line: type, value, behind a tab what it is."""
        return f"{item.type},{item.value}" + (f"\t{' '.join(item.help.split())}" if item.help else "")


SHELLS = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def complete(command: click.Command, name: str, variable: str, instruction: str) -> int:
    """Answer a shell, as click does: the exit code. Nothing is said on standard error while somebody types."""
    for kind in SHELLS.values():
        add_completion_class(kind)
    if instruction.endswith("_complete"):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the end of the process)
    return shell_complete(command, {}, name, variable, instruction)


def script(command: click.Command, name: str, shell: str) -> str:
    """What a shell reads to complete the command ``name``."""
    return SHELLS[shell](command, {}, name, variable_of(name)).source()


def variable_of(name: str) -> str:
    """What a shell sets when it asks the command ``name`` for completions."""
    return f"_{name.replace('-', '_').upper()}_COMPLETE"
