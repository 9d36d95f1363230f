"""Every path string against every verb over the wire: refused, or a literal name; nothing outside the root changes."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftpy import files
from ftpy.storage import beneath, local
from tests.paths import LITERAL, NOT_PORTABLE, REFUSED
from tests.rig import Host, running
from tests.rigs.peer import CHANGES, DONOR, MOVED, TOUCHED_NS, VERBS, WRITES, Answer, RawPeer, as_b64, ask_about
from tests.rigs.trees import Facts, facts_of

CANARY = b"nobody may read or change this"
DATA = b"what was put"
SYSTEM = ("/etc/passwd", "/etc", "/tmp")
"""Places that some of the strings aim at."""

pytestmark = pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="doors need directory descriptors")


@dataclass
class World:
    """A server, a peer that says anything, and a tree around the root that must stay as it is."""

    top: Path
    host: Host
    peer: RawPeer
    before: Facts = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The served folder."""
        return self.host.root

    def remember(self) -> None:
        """From now on nothing outside may change."""
        self.before = self.outside()

    def outside(self) -> Facts:
        """Everything around the root but the server's own memory of digests."""
        facts = facts_of(self.top, without=(self.root, self.host.folder / "state"))
        for path in SYSTEM[:1]:
            status = os.stat(path)
            facts[path] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return facts

    def inside(self) -> Facts:
        """What readers could see in the root."""
        return facts_of(self.root, without=(self.root / ".ftpy",))

    def clear(self) -> None:
        """Empty the root but for the staging area."""
        for path in self.root.iterdir():
            if path.name != ".ftpy":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def make_world(top: Path) -> Iterator[World]:
    """The root lies two folders deep; a canary waits wherever dots could lead."""
    outside = top / "outside"
    outside.mkdir()
    for folder in (top, outside, top / "host"):
        folder.mkdir(exist_ok=True)
        (folder / "canary").write_bytes(CANARY)
    with running(top / "host", tls=False) as host:
        world = World(top, host, RawPeer(host))
        try:
            yield world
        finally:
            world.peer.close()


@pytest.fixture(scope="module", params=["openat2", "walk"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for each way to reach a directory."""
    door = request.param
    if door == "openat2" and beneath.best_door() != "openat2":
        pytest.skip("this kernel or sandbox has no openat2(2)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beneath, "best_door", lambda: door)
        yield from make_world(tmp_path_factory.mktemp(door))


@pytest.fixture
def world(shared: World) -> World:
    """The world with an empty root."""
    shared.clear()
    shared.remember()
    return shared


def check_untouched(world: World, inside: Facts, what: object) -> None:
    """Neither the root nor what is around it has changed, and no upload was begun."""
    assert world.outside() == world.before, what
    assert world.inside() == inside, what
    assert world.host.uploads == [], what


def spellings(text: str) -> list[dict[str, str]]:
    """How a path can be said: as text, and as bytes where it has any."""
    said = [{"path": text}]
    try:
        said.append({"path_b64": as_b64(text)})
    except UnicodeEncodeError:
        pass
    return said


TAKES = ("rm", "rm below", "mv")
"""The verbs after which nothing is at their path."""

AIMED: dict[str, Callable[[World], str]] = {
    "absolute canary": lambda world: str(world.top / "canary"),
    "dots to the canary": lambda world: "../../canary",
    "dots to the host": lambda world: "../canary",
    "dots to another folder": lambda world: "../../outside/canary",
    "down and up": lambda world: "folder/../../../canary",
    "the users' keys": lambda world: "../users.json",
    "the root's own name": lambda world: f"../{world.root.name}/file",
}
"""Strings that would hit if anything followed them."""


@pytest.mark.parametrize("name", [*REFUSED, *AIMED])
def test_every_verb_refuses_a_path_that_is_no_name(world: World, name: str) -> None:
    (world.root / "folder").mkdir()
    (world.root / "folder" / "file").write_bytes(b"inside")
    (world.root / "a").mkdir()
    (world.root / "a" / "b").mkdir()
    (world.root / DONOR).write_bytes(DATA)
    text = REFUSED[name] if name in REFUSED else AIMED[name](world)
    inside = world.inside()
    for verb in (*VERBS, "touch"):
        for path in spellings(text):
            answer = ask_about(world.peer, verb, DATA, **path)
            assert answer.error in ("invalid-path", "protocol-error"), (verb, path, answer)
            assert CANARY not in answer.body
            check_untouched(world, inside, (verb, path))


@pytest.mark.parametrize("name", NOT_PORTABLE)
def test_new_names_are_refused_that_other_systems_cannot_hold_and_old_ones_taken_literally(
    world: World, name: str
) -> None:
    text = NOT_PORTABLE[name]
    file = world.root / text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(CANARY)
    (world.root / DONOR).write_bytes(DATA)
    inside = world.inside()
    sayable = text.isascii() or text.encode("utf-8", "ignore") == text.encode("utf-8", "surrogateescape")
    path = {"path": text} if sayable else {"path_b64": as_b64(text)}
    for verb in VERBS:
        if verb in TAKES:
            continue
        answer = ask_about(world.peer, verb, DATA, **path)
        wanted = {"ls": "not-a-directory", "ls below": "not-a-directory"}.get(verb)
        assert answer.error == ("invalid-path" if verb in CHANGES else wanted), (verb, path, answer)
        assert answer.body == (CANARY if verb == "get" else b"")
        check_untouched(world, inside, (verb, path))
    for verb in TAKES:
        file.write_bytes(CANARY)
        inside = world.inside()
        assert ask_about(world.peer, verb, DATA, **path).error is None
        check_taken(world, inside, text, verb)


@pytest.mark.parametrize("name", LITERAL)
def test_a_literal_name_is_put_and_read_as_just_that_name(world: World, name: str) -> None:
    text = LITERAL[name]
    for verb in sorted(WRITES):
        world.clear()
        put = ask_about(world.peer, verb, verb.encode(), path=text)
        assert put.error is None, (verb, put)
        (made,) = [path for path in world.inside() if os.path.isfile(path)]
        assert made == f"{world.root}/{text}" and Path(made).read_bytes() == verb.encode()
        assert ask_about(world.peer, "get", b"", path=text).body == verb.encode()
        assert ask_about(world.peer, "stat", b"", path=text).fields["entry"]["size"] == len(verb)
        assert ask_about(world.peer, "digest", b"", path=text).error is None
        assert ask_about(world.peer, "ls", b"", path=text).error == "not-a-directory"
        listed = ask_about(world.peer, "ls below", b"", path="").entries
        assert [entry["name"] for entry in listed if entry["type"] == "file"] == [text]
        for change in TAKES:
            inside = world.inside()
            assert ask_about(world.peer, change, b"", path=text).error is None
            check_taken(world, inside, text, change)
            (world.root / DONOR).write_bytes(DATA)
            inside = world.inside()
            assert ask_about(world.peer, "mv to", b"", path=text).error is None
            check_placed(world, inside, text)
        assert world.outside() == world.before and world.host.uploads == []


# ------------------------------------------------------------------ what can lie at a name


def furnish(world: World) -> None:
    """Links in and out, at a file, a folder and nothing; a FIFO, a socket, a folder, a file."""
    root, outside = world.root, world.top / "outside"
    (root / "folder").mkdir()
    (root / "folder" / "file").write_bytes(b"inside")
    for name, target in {
        "link-out": outside / "canary",
        "link-out-relative": Path("../../outside/canary"),
        "link-out-folder": outside,
        "link-out-nothing": outside / "new",
        "link-up": Path(".."),
        "link-in": Path("folder/file"),
        "link-in-folder": Path("folder"),
        "link-self": Path("link-self"),
        "link-proc": Path(f"/proc/self/root{outside}"),
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)  # a socket's address is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)


LINKS = (
    "link-out",
    "link-out-relative",
    "link-out-folder",
    "link-out-nothing",
    "link-up",
    "link-in",
    "link-in-folder",
    "link-self",
    "link-proc",
)
SPECIAL = ("fifo", "socket")
BELOW = (
    *(f"{link}/{name}" for link in LINKS for name in ("canary", "new")),
    "link-in-folder/file",
    "link-up/canary",
    "link-proc/etc/passwd",
    "link-out-folder/new/deeper",
    "folder/file/below",
    "fifo/below",
    "socket/below",
)

EXPECTED: dict[str, dict[str, str | None]] = {
    "link": {"get": "not-a-file", "digest": "not-a-file", "ls": "not-a-directory"},
    "special": {"get": "not-a-file", "digest": "not-a-file", "ls": "not-a-directory"},
    "below": dict.fromkeys(("get", "digest", "ls", "stat", "put", "rm", "rm below", "mv", "mv to"), "not-a-directory"),
    "folder": {
        "get": "is-a-directory",
        "digest": "is-a-directory",
        "put": "is-a-directory",
        "rm": "not-empty",
        "mv to": "is-a-directory",
    },
    "absent": dict.fromkeys(("get", "digest", "ls", "stat", "rm", "rm below", "mv"), "not-found"),
    "absent below": dict.fromkeys(("get", "digest", "ls", "stat", "rm", "rm below", "mv", "mv to"), "not-found"),
}
"""What lies there -> verb -> the error; the others are answered. Only the name of a link or a FIFO is changed."""
KINDS = {
    **dict.fromkeys(LINKS, "link"),
    **dict.fromkeys(SPECIAL, "special"),
    **dict.fromkeys(BELOW, "below"),
    "folder": "folder",
    "absent": "absent",
    "absent/below": "absent below",
}
BASE = {"put in parts": "put", "ls below": "ls"}


@pytest.mark.parametrize("path", KINDS)
def test_no_verb_follows_what_lies_at_a_name(world: World, path: str) -> None:
    expected = EXPECTED[KINDS[path]]
    for verb in VERBS:
        world.clear()
        furnish(world)
        (world.root / DONOR).write_bytes(DATA)
        inside = world.inside()
        answer = ask_about(world.peer, verb, DATA, path=path)
        assert answer.error == expected.get(BASE.get(verb, verb)), (verb, path, answer)
        assert CANARY not in answer.body and b"root:" not in answer.body
        if verb in CHANGES and answer.error is None:
            if verb in TAKES:
                check_taken(world, inside, path, verb)
            else:
                check_placed(world, inside, path)
        else:
            check_untouched(world, inside, (verb, path))
        if verb == "stat" and answer.error is None:
            check_told_as_itself(answer, KINDS[path])


@pytest.mark.parametrize("path", KINDS)
def test_touch_follows_nothing_and_changes_nothing_else(world: World, path: str) -> None:
    furnish(world)
    inside = world.inside()
    answer = ask_about(world.peer, "touch", b"", path=path)
    refused = {"link": "not-a-file", "special": "not-a-file", "below": "not-a-directory"}.get(KINDS[path])
    assert answer.error == refused, answer
    if refused is not None:
        check_untouched(world, inside, ("touch", path))
        return
    touched = world.root / path
    assert touched.lstat().st_mtime_ns == TOUCHED_NS
    assert touched.is_dir() if path == "folder" else touched.read_bytes() == b""
    check_else_untouched(world, inside, {touched, touched.parent} - {world.root})


def check_placed(world: World, inside: Facts, path: str) -> None:
    """The name is a regular file with what was put, and all else is as it was."""
    placed = world.root / path
    assert stat.S_ISREG(placed.lstat().st_mode) and placed.read_bytes() == DATA
    check_else_untouched(world, inside, {placed} if (world.root / DONOR).exists() else {placed, world.root / DONOR})


def check_taken(world: World, inside: Facts, path: str, verb: str) -> None:
    """Nothing is at the path any more; what a ``mv`` found there is in its new place, and all else is as it was."""
    taken, moved = world.root / path, world.root / MOVED
    before = {key: value for key, value in inside.items() if key == str(taken) or key.startswith(f"{taken}/")}
    assert not os.path.lexists(taken)
    if verb == "mv":
        kept = {key.replace(str(moved), str(taken), 1): value for key, value in world.inside().items()}
        for name, facts in before.items():
            # But the time of change of what has another name.
            assert without_ctime(kept[name]) == without_ctime(facts)
        shutil.rmtree(moved) if moved.is_dir() and not moved.is_symlink() else moved.unlink()
    check_else_untouched(world, inside, {Path(name) for name in before})


def without_ctime(facts: tuple[object, ...]) -> tuple[object, ...]:
    """A name's facts but for the time of change, the last but one."""
    return facts[:-2] + facts[-1:]


def check_else_untouched(world: World, inside: Facts, but: set[Path]) -> None:
    """All is as it was, but for these names and the folders that they are in."""
    changed = {os.fspath(path) for name in but for path in (name, *name.parents)}
    now = world.inside()
    assert {key: value for key, value in now.items() if key not in changed} == {
        key: value for key, value in inside.items() if key not in changed
    }
    assert world.outside() == world.before and world.host.uploads == []
    assert os.listdir(world.root / ".ftpy" / "removed") == []


def check_told_as_itself(answer: Answer, kind: str) -> None:
    """stat tells what is there, not what it leads to."""
    entry = answer.fields["entry"]
    assert entry["type"] == {"link": "symlink", "special": "other", "folder": "directory"}[kind]
    assert entry["size"] == 0 and "etag" not in entry


def test_a_listing_tells_links_but_does_not_enter_them(world: World) -> None:
    furnish(world)
    listed = {entry["name"]: entry["type"] for entry in ask_about(world.peer, "ls below", b"", path="").entries}
    assert listed == {
        **dict.fromkeys(LINKS, "symlink"),
        **dict.fromkeys(SPECIAL, "other"),
        "folder": "directory",
        "folder/file": "file",
    }
    assert world.outside() == world.before


@pytest.mark.parametrize("upload", ["../../canary", "a" * 31, "A" * 32, "a" * 32 + "\n", "", ".", "0" * 30 + "/a"])
def test_an_upload_is_found_by_an_id_and_by_nothing_else(world: World, upload: str) -> None:
    for cmd, body, fields in (
        ("part", DATA, {"part": 0}),
        ("commit", None, {"digest": {"md5": "0" * 32}}),
        ("abort", None, {}),
    ):
        answer = world.peer.ask(cmd, body, upload=upload, **fields)
        assert answer.error == "protocol-error"
        check_untouched(world, world.inside(), upload)


def test_the_rig_tells_a_build_that_follows_dots_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the refusals and O_NOFOLLOW taken out, the same questions reach what is outside."""
    monkeypatch.setattr(beneath, "best_door", lambda: "walk")
    monkeypatch.setattr(beneath, "_DIRECTORY_FLAGS", beneath._DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
    monkeypatch.setattr(beneath, "_READ_FLAGS", beneath._READ_FLAGS & ~os.O_NOFOLLOW)
    for module in (beneath, local):
        monkeypatch.setattr(module, "check_parts", lambda parts: None)
    monkeypatch.setattr(files, "_refusal", lambda part: None)
    monkeypatch.setattr(files, "_not_portable", lambda part: None)
    for world in make_world(tmp_path):
        furnish(world)
        world.remember()
        assert ask_about(world.peer, "get", b"", path="link-out").body == CANARY
        assert ask_about(world.peer, "get", b"", path="../../canary").body == CANARY
        assert ask_about(world.peer, "put", DATA, path="../../outside/new").error is None
        with pytest.raises(AssertionError):
            check_untouched(world, world.inside(), "a put through dots")
        assert (tmp_path / "outside" / "new").read_bytes() == DATA
        assert ask_about(world.peer, "mv", b"", path="../../outside/new").error is None
        assert not (tmp_path / "outside" / "new").exists() and (world.root / MOVED).read_bytes() == DATA
        assert ask_about(world.peer, "rm below", b"", path="../../outside").error is None
        assert not (tmp_path / "outside").exists()
