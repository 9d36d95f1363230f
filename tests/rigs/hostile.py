"""Sessions of the real client with a hostile server, and one checker after each: nothing outside what the user named,
no success that is none, nothing that a terminal would obey, no defect, no wait without end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import pty
import random
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from ftpy.cli.common import run_main
from ftpy.cli.main import ftpy
from ftpy.client import connection, getting, lines, listing, rangeget, streams, syncing
from ftpy.config.client import save_profile
from ftpy.digests import hexdigest
from ftpy.errors import FtpyError
from ftpy.files import RemotePath
from ftpy.wire.token import PairingToken
from tests.rig import ENVIRONMENT
from tests.rigs.hostilesyncs import REFUSED, judge, prepare, pull, push
from tests.rigs.impostors import Identity
from tests.rigs.lies import Liar
from tests.rigs.lying import LyingServer, Model
from tests.rigs.processes import memory_of, until
from tests.rigs.sessions import FILES, FURNITURE, STALL_SECONDS, Scene, Session, check_names, check_tree, contents

SESSION_SECONDS = 12.0
"""What a session may take: several limits of STALL_SECONDS, and a machine that is busy with other things."""
PROCESS_EVERY = 200
"""Every so many sessions the command is a real process on a pseudo-terminal."""
PROCESS_SECONDS = 60.0
SMALL = {
    (lines, "BACKOFF_SECONDS"): 0.001,
    (streams, "PIECE_BYTES"): 2048,
    (getting, "PROBE_BYTES"): 512,
    (rangeget, "RANGE_BYTES"): 2048,
    (listing, "MOST_ENTRIES"): 5_000,
    (syncing, "MOST_PLANNED"): 5_000,
    (connection, "PATIENCE"): 2,
}
"""Limits of the client's that a session of some milliseconds shall meet."""
IMPATIENT = (
    "from ftpy.client import connection; from ftpy.cli.main import main; "
    f"connection.PATIENCE = {SMALL[connection, 'PATIENCE']}; main()"
)
"""The command as a process; with a second of silence allowed it would wait for two minutes where nothing gets ahead."""
GROWTH_BYTES = 32 * 1024 * 1024
"""What thousands of sessions may add to the memory of the process."""
SESSION_GROWTH_BYTES = 1024
"""What each adds: holes that threads leave in malloc's heaps; Python's own objects (tracemalloc) stay as many."""
WARM_SESSIONS = 300
"""Before these are through, caches and pools still grow."""
OBEYED = frozenset(chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)])
DRAWN = ("\r", "\n", "\x1b[A", "\x1b[34m\x1b[1m", "\x1b[0m")
"""What bars and lines are drawn with, and the blue of folders: the only controls that may reach a terminal."""


class Output(io.StringIO):
    """Standard output or error that counts as a terminal, so that bars are drawn."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Yes."""
        return True


OUTPUT = Output()
"""One for all: click remembers every stream that it has ever written to."""


# ------------------------------------------------------------------ what is asked of the client


def get(session: Session) -> None:
    """One file, to a name that is free, taken by another content, by the same, or by a link."""
    name = session.rng.choice(["a.txt", "d/b", "d/e", "big", "big"])
    leaf = session.rng.choice(["new", "new", "keep.txt", "same", "linkfile", "kept"])
    with session.client() as client:
        result = client.get(
            name, session.target / leaf, digest=session.rng.choice(["md5", "blake3"]), force=session.force
        )
    content = (session.target / leaf).read_bytes()
    session.require(result.size == len(content), "get: another size than it says")
    session.require(hexdigest(result.digest.name, content) == result.digest.hex, "get: another content than it says")
    session.require(stat.S_ISREG((session.target / leaf).lstat().st_mode), "get: success at what is no file")
    session.vouched(result.digest.hex, "get")
    session.require(session.force or result.identical or leaf == "new", "get: replaced without being told to")


def get_to_stream(session: Session) -> None:
    """One file, to a stream."""
    output = io.BytesIO()
    with session.client() as client:
        result = client.get(session.rng.choice(["a.txt", "big", "d/e"]), output)
    session.require(result.size == len(output.getvalue()), "get to a stream: another size than it says")
    written = hexdigest("md5", output.getvalue())
    session.vouched(written, "get to a stream")


def get_tree(session: Session) -> None:
    """All, into a folder where something is already."""
    before, options = contents(session.target), session.options()
    with session.client() as client:
        client.get_tree(session.rng.choice(["", "", "d"]), session.target, options)
    if not options.dry_run:
        check_tree(session, before)
    session.require(session.heard.complete, "get -r: success without a last page")


def put(session: Session) -> None:
    """A small file, one in parts, or a stream."""
    content = session.rng.randbytes(session.rng.choice([0, 10, 1024, 1025, 5000]))
    (session.folder / "source").write_bytes(content)
    session.heard.digests.discard(hexdigest("md5", content))
    condition: Any = session.rng.choice([None, "absent"])
    with session.client() as client:
        source = session.folder / "source" if session.rng.random() < 0.7 else io.BytesIO(content)
        result = client.put(source, "x", condition=condition)
    session.require((result.size, result.digest.hex) == (len(content), hexdigest("md5", content)), "put: another file")
    session.vouched(result.digest.hex, "put")
    session.require(session.heard.durable or not result.durable, "put: durable, which nobody said")


def put_tree(session: Session) -> None:
    """A folder, now and then all of it at once."""
    options = session.options()
    with session.client() as client:
        result = client.put_tree(session.target, session.rng.choice(["t", "t", ""]), options)
    session.require(session.heard.replaced or not result.swapped, "put -r --atomic: in place, which nobody said")
    session.require(
        result.swapped or not options.atomic or options.dry_run or result.failed, "put -r --atomic: neither"
    )
    for told in session.told:
        if told.verdict == "sent" and not options.dry_run:
            session.vouched(hexdigest(options.digest, Path(told.name).read_bytes()), "put -r")


def ls(session: Session) -> None:
    """A listing, to its end."""
    where = session.rng.choice(["", "d"])
    with session.client() as client:
        for info in client.ls(where, recursive=session.rng.random() < 0.7):
            session.require(RemotePath.parse(str(info.path)) == info.path, f"ls: {info.path!r} is no path")
            below = info.path.parts[: len(where.split("/")) if where else 0]
            session.require("/".join(below) == where, f"ls: {info.path!r} is not below {where!r}")
    session.require(session.heard.complete, "ls: success without a last page")


def stat_(session: Session) -> None:
    """One path."""
    with session.client() as client:
        info = client.stat("a.txt")
    session.require(str(info.path) == "a.txt", f"stat: told of {info.path!r}")


def digest(session: Session) -> None:
    """One digest."""
    name: Any = session.rng.choice(["md5", "blake3"])
    with session.client() as client:
        known = client.digest("a.txt", name)
    session.require(known.name == name, f"digest: {known.name} where {name} was asked for")


def cat(session: Session) -> None:
    """One file in pieces, all of it or a range."""
    name = session.rng.choice(["a.txt", "big", "d/e"])
    whole = session.rng.random() < 0.5
    with session.client() as client:
        pieces = client.cat(name) if whole else client.cat(name, offset=1, count=session.rng.choice([0, 5, 10**6]))
        content = b"".join(pieces)
    if whole:
        session.vouched(hexdigest("md5", content), "cat")


def survey(session: Session) -> None:
    """What is made of listings."""
    what = session.rng.choice(["du", "tree", "find", "glob"])
    with session.client() as client:
        ways: dict[str, Callable[[], list[Any]]] = {
            "du": lambda: list(client.du("d")),
            "tree": lambda: list(client.tree("d")),
            "find": lambda: list(client.find("d")),
            "glob": lambda: client.glob("d/*"),
        }
        found = ways[what]()
    for one in found:
        path = getattr(one, "path", None) or one.info.path
        session.require(path.parts[:1] == ("d",), f"{what}: {path!r} is not below what was asked about")
    unlisted = what == "glob" or session.heard.requests.count("stat")  # "no folder", so it was asked what it is
    session.require(unlisted or session.heard.complete, f"{what}: success without a last page")


def rm(session: Session) -> None:
    """A file, or a folder."""
    with session.client() as client:
        result = client.rm("d/b" if session.rng.random() < 0.5 else "d", recursive=True)
    session.require(session.heard.requests.count("rm"), "rm: success without a request")
    session.require(result.files is not None or not result.durable, "rm: durable, which nobody said")


def mv(session: Session) -> None:
    """A file."""
    condition: Any = session.rng.choice([None, "absent"])
    with session.client() as client:
        client.mv("a.txt", "b.txt", condition=condition)
    session.require(session.heard.requests.count("mv"), "mv: success without a request")


def rollback(session: Session) -> None:
    """Back to another folder."""
    with session.client() as client:
        client.rollback("t")
    session.require(session.heard.replaced, "rollback: success that nobody said")


def run(session: Session) -> None:
    """A command to its end, or the list of them."""
    with session.client() as client:
        if session.rng.random() < 0.3:
            for info in client.commands():
                session.require(re.fullmatch("[a-z0-9][a-z0-9_-]*", info.name), f"run: told of {info.name!r}")
            return
        with client.run("disk", stdin=session.rng.choice([None, b"input"])) as running:
            for output in running:
                session.require(0 < len(output.data) <= 65_536, "run: a piece of another length than can be")
                either = {hexdigest("xxh128", output.data), hexdigest("blake3", output.data)}
                session.require(either & session.heard.digests, "run: output that was never vouched for")
        session.require(running.code is not None and 0 <= running.code <= 255, "run: no exit code")


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ls", "-lR"),
    ("ls", "-R", "--json"),
    ("ls", "-R", "--digest", "d"),
    ("stat", "a.txt"),
    ("digest", "a.txt", "d/b"),
    ("get", "-r", "-v", "d", "target"),
    ("get", "-r", "--json", "d", "target"),
    ("get", "-r", "--dry-run", "d", "target"),
    ("get", "a.txt", "big", "target/"),
    ("get", "--explain", "big", "target/new"),
    ("put", "source", "x"),
    ("put", "-r", "-v", "target", "t"),
    ("put", "-r", "--atomic", "target", "t"),
    ("rollback", "t"),
    ("sync", "-v", "target", "t"),
    ("sync", "--delete", "--max-delete", "100%", "target", "d"),
    ("sync", "--pull", "--by-digest", "--json", "target", "d"),
    ("sync", "--pull", "--delete", "--max-delete", "100%", "-v", "target", "d"),
    ("sync", "--pull", "--delete", "--dry-run", "target", "d"),
    ("undo",),
    ("undo", "1234abcd"),
    ("rm", "a.txt"),
    ("rm", "-r", "d/*"),
    ("ls", "-l", "**/*"),
    ("get", "[ab].txt", "target/"),
    ("tree",),
    ("du", "--json", "d"),
    ("find", "--name", "*"),
    ("df",),
    ("doctor",),
    ("ping", "-c", "3", "--seconds", "0.05", "--size", "20K"),
    ("time", "--proven"),
    ("touch", "new"),
    ("mkdir", "made"),
    ("mv", "a.txt", "c"),
    ("pair", "other"),
)


RUNS: tuple[tuple[str, ...], ...] = (("run",), ("run", "--json"), ("run", "disk"), ("run", "--json", "disk"))
"""What writes to descriptors, which only a process has of its own; it ends with the code that the server says."""


def command(session: Session) -> None:
    """A command as it is typed, on something that counts as a terminal."""
    arguments = session.rng.choice(COMMANDS + RUNS if session.process else COMMANDS)
    if session.force and arguments[0] == "get":
        arguments = ("get", "--force", *arguments[1:])
    (session.folder / "source").write_bytes(b"s" * session.rng.choice([10, 3000]))
    prepare(session, arguments)
    code, output = run_process(session, arguments) if session.process else run_command(session, arguments)
    if session.sync is not None:
        session.sync.refused = REFUSED in output
    session.said.append(f"{arguments} {code}")
    session.require(code in (0, 1, 2, 3, 4, 5) or arguments in RUNS, f"{arguments}: exit code {code}: {output[-2000:]}")
    drawn = output
    for allowed in (*DRAWN, "\t") if arguments in RUNS else DRAWN:
        drawn = drawn.replace(allowed, "")
    session.require(OBEYED.isdisjoint(drawn), f"{arguments}: {sorted(OBEYED & set(drawn))} on a terminal")


def configured(session: Session, stall_seconds: float) -> Path:
    """A client's config with the server in it, and little patience."""
    config = session.folder / "client.toml"
    config.unlink(missing_ok=True)
    save_profile(config, "home", session.server.profile)
    with open(config, "a") as file:
        file.write(f"[transfer]\nstall_seconds = {stall_seconds}\nconnect_seconds = 5.0\nretries = 1\n")
    return config


def run_command(session: Session, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Run it in this process: its exit code and all that it said."""
    configured(session, STALL_SECONDS)
    output = OUTPUT
    output.seek(0)
    output.truncate()
    standard = sys.argv, sys.stdin, sys.stdout, sys.stderr, os.getcwd()
    try:
        os.chdir(session.folder)
        sys.argv = ["ftpy", *arguments]
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(token_of(session.server) + "\n"), output, output
        run_main(ftpy, "ftpy")
    except SystemExit as ended:
        return int(ended.code or 0), output.getvalue()
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = standard[:4]
        os.chdir(standard[4])
        gc.unfreeze()  # a command that ends freezes what is left for the end of its process, which this one is not


def run_process(session: Session, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Run it as a process on a terminal of its own: its exit code and all that it said."""
    config = configured(session, stall_seconds=1.0)
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=slave,
        cwd=session.folder,
        env=ENVIRONMENT | {"FTPY_CONFIG": str(config), "TERM": "xterm"},
    ) as process:
        os.close(slave)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{token_of(session.server)}\n".encode())
            process.stdin.close()
        output = b""
        with contextlib.suppress(OSError):  # its end is an error of the terminal's
            while data := os.read(master, 65_536):
                output += data
        os.close(master)
        process.wait(PROCESS_SECONDS)
    return process.returncode, output.decode("utf-8")


def token_of(server: LyingServer) -> str:
    """What pairing with it takes."""
    profile = server.profile
    return PairingToken(
        addresses=profile.addresses, user=profile.user, key=profile.key, certificate_sha256=profile.certificate_sha256
    ).to_text()


SCENES: tuple[Scene, ...] = (
    get,
    get,
    get,
    get_to_stream,
    cat,
    survey,
    get_tree,
    get_tree,
    get_tree,
    put,
    put_tree,
    rollback,
    rm,
    mv,
    run,
    ls,
    stat_,
    digest,
    push,
    pull,
    pull,
    command,
    command,
)


# ------------------------------------------------------------------ before and after


def furnish(folder: Path) -> None:
    """What is on this side: a target with something in it, and beside it what nobody may touch."""
    target = folder / "target"
    if target.exists():
        shutil.rmtree(target)
    for name, content in FURNITURE.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (target / "link").symlink_to(folder / "outside")
    (target / "linkfile").symlink_to(folder / "canary")
    if not (folder / "outside").exists():
        (folder / "outside").mkdir()
        for name in ("canary", "outside/canary"):
            (folder / name).write_bytes(b"nobody may change this")


Facts = dict[str, tuple[int, ...]]
SETTINGS = {"source", "client.toml", ".client.toml.lock", "targets.jsonl", ".targets.jsonl.lock"}
"""What the client and the rig itself keep beside the target."""


def facts(folder: Path) -> Facts:
    """All that is beside the target: inode, mode, size and times of change."""
    found: Facts = {}
    for path in (folder, folder / "outside", folder / "canary", folder / "outside" / "canary"):
        status = path.lstat()
        times = () if path == folder else (status.st_mtime_ns, status.st_ctime_ns)
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size if times else 0, *times)
    names = {entry.name for entry in os.scandir(folder)} - SETTINGS
    return found | dict.fromkeys((*names, *os.listdir(folder / "outside")), ())


def check_target(session: Session, before: dict[str, bytes]) -> None:
    """What was there is there, but for what a forced get replaced; what is new has a legal name and is no link."""
    if session.sync is not None:
        judge(session, session.sync)
        return
    after = contents(session.target)
    for path, content in before.items():
        if after.get(path) != content:
            session.require(session.force, f"{path} was changed")
            session.require(path in after, f"{path} is gone")
    session.require(sum(map(len, after.values())) <= session.heard.sent + 4096, "more bytes came than were sent")
    check_names(session, after.keys() - before.keys())
    session.require(not (session.target / ".ftpy").exists(), "the staging area was left")


# ------------------------------------------------------------------ one session, many


def run_session(
    server: LyingServer, folder: Path, seed: str, scenes: Sequence[Scene] = SCENES, *, process: bool = False
) -> Session:
    """Play one session and judge it."""
    rng = random.Random(seed)
    furnish(folder)
    outside, before = facts(folder), contents(folder / "target")
    script: list[str] = []
    rate = rng.choice([0.1, 0.4, 0.8])
    heard = server.begin(lambda talk, request, answers: _liar(talk, seed, script, rate)(talk, request, answers))
    session = Session(folder, server, rng, heard, script, force=rng.random() < 0.3)
    server.model.part_size, server.model.remembers = rng.choice([1, 512, 1024, 2**40]), rng.random() < 0.7
    server.inline_bytes, server.requests = rng.choice([0, 1024, 2**63 - 1]), rng.choice([1, 2, 64, 1_000_000])
    server.knows_key = rng.random() < 0.95
    scene = command if process else rng.choice(scenes)
    session.process = process
    script.append(scene.__name__)
    began = time.monotonic()
    try:
        scene(session)
        session.require(server.knows_key or scene is command, "success with a server that holds no key")
    except FtpyError as error:
        session.said.append(str(error))
    except Exception as error:
        session.wrong.append(f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - began
    server.settle()
    session.require(seconds < (PROCESS_SECONDS if process else SESSION_SECONDS), f"it took {seconds:.1f} s")
    session.require(server.knows_key or not heard.requests, "a request to a server that holds no key")
    session.wrong += [f"server: {type(error).__name__}: {error}" for error in server.failures]
    server.failures.clear()
    session.require(facts(folder) == outside, f"outside the target: {facts(folder)} where {outside} was")
    check_target(session, before)
    return session


def _liar(talk: Any, seed: str, script: list[str], rate: float) -> Liar:
    """The liar of one connection."""
    liar = getattr(talk, "liar", None)
    if liar is None:
        liar = talk.liar = Liar(f"{seed}/{talk.number}", script, rate)
    found: Liar = liar
    return found


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    """The client's limits so that a short session meets them."""
    before = {key: getattr(*key) for key in SMALL}
    for (module, name), value in SMALL.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


@contextlib.contextmanager
def settings(config: Path) -> Iterator[None]:
    """The client's settings, and its notes of what is kept where, are these."""
    before = os.environ.get("FTPY_CONFIG")
    os.environ["FTPY_CONFIG"] = str(config)
    try:
        yield
    finally:
        del os.environ["FTPY_CONFIG"]
        if before is not None:
            os.environ["FTPY_CONFIG"] = before


def resident() -> int:
    """The memory of this process, bytes, less what malloc keeps of threads that have ended."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return memory_of(os.getpid())["VmRSS"]


@dataclass
class Report:
    """What came of many sessions."""

    sessions: int = 0
    succeeded: int = 0
    lies: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    grown: int = 0
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures."""
        return (
            f"rig-hostile: {self.sessions} sessions, {self.lies} lies,"
            f" {self.seconds / max(1, self.sessions) * 1e3:.1f} ms each, slowest {self.slowest:.1f} s,"
            f" memory {self.grown / 2**20:+.1f} MiB; {len(self.violations)} violations"
        )


class Campaign:
    """A hostile server with TLS or without, and sessions with it one after the other."""

    def __init__(self, folder: Path, seed: int, *, tls: bool = False, scenes: Sequence[Scene] = SCENES) -> None:
        self._folder, self._seed, self._scenes = folder, seed, scenes
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "world").mkdir()
        self._identity = Identity(folder / "identity") if tls else None
        self._stack = contextlib.ExitStack()
        self._warm = 0
        self.report = Report()

    def __enter__(self) -> Self:
        self._stack.enter_context(small_limits())
        self._stack.enter_context(settings(self._folder / "world" / "client.toml"))
        self._server = self._stack.enter_context(LyingServer(Model(dict(FILES)), identity=self._identity))
        tqdm.monitor_interval = 0  # no thread of its own that stays
        self._threads = threading.active_count()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def run(self, number: int) -> Session:
        """The session of this number; what is wrong with it goes into the report, with what replays it."""
        report, seed = self.report, f"{self._seed}:{number}"
        began = time.monotonic()
        process = number % PROCESS_EVERY == PROCESS_EVERY - 1
        session = run_session(self._server, self._folder / "world", seed, self._scenes, process=process)
        seconds = time.monotonic() - began
        report.sessions += 1
        report.lies += len(session.script) - 1
        report.seconds += seconds
        report.slowest = max(report.slowest, seconds)
        if session.wrong:
            report.violations.append(
                f"session {number} (--seed {self._seed} --only {number}): {'; '.join(session.wrong)[:2000]}\n"
                f"    script: {session.script}\n    said: {session.said}"
            )
        if report.sessions % WARM_SESSIONS == 0:  # else holes pile up over tens of thousands of sessions
            now = resident()
            self._warm = self._warm or now
        return session

    def finish(self) -> Report:
        """After the last one: memory and threads."""
        report = self.report
        if self._warm:
            report.grown = resident() - self._warm
            if report.grown > GROWTH_BYTES + report.sessions * SESSION_GROWTH_BYTES:
                report.violations.append(f"the process grew by {report.grown} bytes")
        if not until(lambda: threading.active_count() <= self._threads):
            report.violations.append(f"threads are left: {[thread.name for thread in threading.enumerate()]}")
        return report
