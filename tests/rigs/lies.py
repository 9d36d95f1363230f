"""What a hostile server says in place of the truth: fields of right answers replaced, answers mangled, garbage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ftpy.digests import hexdigest
from ftpy.wire.bases import Request
from ftpy.wire.codec import add_crc
from ftpy.wire.messages import LsRequest
from tests.rigs.lying import Answer, Talk, framed

NAMES = (
    *("", ".", "..", "../canary", "../../canary", "a/../../canary", "/etc/passwd", "//x", "a//b", "a/", "link/planted"),
    *(
        "linkfile",
        "LINKFILE",
        "keep.txt",
        "KEEP.TXT",
        "kept/planted",
        "kept",
        "keep.txt/x",
        "C:\\x",
        "c:/x",
        "a\\..\\b",
    ),
    *("\\\\host\\share", ".ftpy", ".FTPY/staged/x", ".f\u200dtpy-x", ".ftpy-0-0.partial", "NUL", "con.txt", "x.", "x "),
    *("\x1b[31mred", "\x1b]0;owned\x07", "\x9b2J", "\u009d0;x\u009c", "a\rb", "a\nb", "a\tb", "\x7f", "a\x00b"),
    *("\u202egpj.exe", "\u2066x\u2069", "\u200b", "e\u0301", "\u212a", "\ud800", "\udcff", "a\udc80b", "\U000e0001"),
    *(
        "n" * 255,
        "n" * 256,
        "\u00e9" * 128,
        "m" * 60_000,
        "d/" * 63 + "x",
        "d/" * 70 + "x",
        "x" * 250 + "/" + "y" * 250,
    ),
    *("-rf", "~", "$HOME", "a.txt", "d", "d/b", "D/B", "aux", "a:b", "*", "\ufeffx", "x\u2028y"),
)
WAYS_OUT = ("../planted", "link/new", "link/canary", "../outside/new", "d/../../planted", "../link/x", "../canary")
"""Names that lead out of the target where nobody looks at them."""
NUMBERS = (
    *(-1, 0, 1, 2, 63, 64, 255, 1023, 1024, 1025, 4096, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53),
    *(2**62, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan")),
)
WORDS = ("absent", "ok", "complete", "md5", "0" * 32, "f" * 64, "F" * 32, "not-found", "internal", "x" * 5000)
CODES = (
    *("not-found", "busy", "changed", "internal", "digest-mismatch", "no-space", "unknown-upload", "protocol-error"),
    *("shutting-down", "is-a-directory", "not-a-directory", "permission-denied", "unsupported", "a-newer-word", ""),
    *("\x1b[2J", "UPPER", "x" * 70),
)
SLOW_SHARE = 0.003
"""Of all lies, how many wait for a limit of the client's."""
PAGES = 30
"""Pages of a listing that is long, before the liar gives up."""
ENDLESS_SECONDS = 10.0
"""After so long a client that lets itself be told more and more has lost, seconds."""
FOREVER_SECONDS = 0.02
"""Between two signs of life of a server that never gets ready, seconds."""


class Liar:
    """Answers as the seed says; ``script`` tells what it did, ``rate`` how often it lies. One for each connection."""

    def __init__(self, seed: str, script: list[str], rate: float) -> None:
        self.rng = random.Random(seed)
        self._script, self._rate = script, rate
        self._silent = self._left = False

    def __call__(self, talk: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
        """What is said to a request, or to what was said in the handshake."""
        rng = self.rng
        if self._left:
            return
        rate = self._rate if request is not None else self._rate / 8
        if rng.random() >= rate:
            yield from (answer.data for answer in answers)
            return
        lie = rng.choice(self._lies(request, answers))
        about = request.__struct_config__.tag if request is not None else "handshake"
        self._script.append(f"{talk.number}: {about}: {lie.__name__.strip('_')}")
        yield from lie(self, talk, request, answers)
        if rng.random() < (0.2 if lie in LISTING_LIES else 0.85):
            self._left = True
            talk.leave()

    def _lies(self, request: Request | None, answers: list[Answer]) -> tuple[Lie, ...]:
        lists = isinstance(request, LsRequest) and "entries" in answers[0].fields  # no refusal
        if self.rng.random() < SLOW_SHARE:
            return SLOW_LISTING_LIES if lists else SLOW_LIES
        return LISTING_LIES if lists and self.rng.random() < 0.75 else LIES

    def note(self, text: object) -> None:
        """More of what the script should tell."""
        self._script[-1] += f" {text!r:.200}"

    # ---- values

    def value(self, old: Any) -> Any:
        """Something nasty in place of ``old``, of its type more often than not."""
        rng = self.rng
        if rng.random() < 0.2:
            return rng.choice([None, True, [], {}, "", -1, [[[[[[]]]]]], {"a": {"a": {}}}, rng.choice(NUMBERS)])
        if isinstance(old, bool):
            return not old
        if isinstance(old, int):
            return rng.choice(NUMBERS) if rng.random() < 0.6 else old + rng.choice([-1, 1, 7, 1000, -1000])
        if isinstance(old, str):
            return rng.choice(rng.choice([NAMES, WORDS, CODES]))
        if isinstance(old, list):
            return old * rng.choice([0, 2, 300]) if old else [self.value(0), self.value("")]
        return {} if old else "x"

    def changed(self, tree: Any) -> Any:
        """The same with one of its values replaced, left out, or doubled."""
        rng = self.rng
        if isinstance(tree, dict) and tree and rng.random() < 0.95:
            fields = dict(tree)
            key = rng.choice(list(fields))
            what = rng.random()
            if what < 0.07:
                del fields[key]
            elif what < 0.1:
                fields[rng.choice(NAMES + WORDS)] = self.value(0)
            else:
                fields[key] = self.changed(fields[key])
                self.note((key, fields[key]))
            return fields
        if isinstance(tree, list) and tree and rng.random() < 0.9:
            at = rng.randrange(len(tree))
            return [*tree[:at], self.changed(tree[at]), *tree[at + 1 :]]
        return self.value(tree)


Lie = Callable[[Liar, Talk, Request | None, list[Answer]], Iterable[bytes]]


def _fields(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Some field says something else."""
    for answer in answers:
        for _n in range(liar.rng.choice([1, 1, 1, 2, 3])):
            answer = answer._replace(fields=liar.changed(answer.fields))
        if liar.rng.random() < 0.3 and isinstance(answer.fields, dict) and answer.fields:
            answer = answer._replace(fields=add_crc(answer.header[4:]))  # a lie that arrived undamaged
        yield answer.data


def _trailer(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """The trailer is of something else, or none."""
    for answer in answers:
        if answer.trailer is not None:
            wrong = [{"md5": "0" * 32}, {"blake3": "f" * 64}, {"xxh128": "0" * 32}, liar.changed(answer.trailer)]
            answer = answer._replace(trailer=liar.rng.choice(wrong))
        yield answer.data


def _body(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Another body behind the same header: shorter, longer, or with a byte that differs."""
    for answer in answers:
        if answer.body:
            body = bytearray(answer.body)
            body[liar.rng.randrange(len(body))] ^= 1 << liar.rng.randrange(8)
            others = [*[bytes(body)] * 5, answer.body[:-1], answer.body + b"x", b""]
            answer = answer._replace(body=liar.rng.choice(others))
        yield answer.data


def _other_content(liar: Liar, _: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """A lie without a seam: other bytes, with their own length and digest."""
    for answer in answers:
        if answer.trailer is not None:
            body = liar.rng.randbytes(len(answer.body))
            name = next(iter(answer.trailer))
            fields = answer.fields | {"md5": hexdigest("md5", body)}
            answer = Answer(fields, body, {name: hexdigest(name, body)})
        yield answer.data


def _refusal(liar: Liar, _: Talk, request: Request | None, __: list[Answer]) -> Iterator[bytes]:
    """A failure, of any code, with any text, of the request or of the connection."""
    rng = liar.rng
    number = rng.choice([0, 0, request.id if request else 1, request.id if request else 1, 2**53 - 1])
    fields = {"id": number, "ok": False, "error": rng.choice(CODES), "message": rng.choice(NAMES)}
    liar.note(fields)
    yield framed(fields)


def _another_kind(liar: Liar, _: Talk, request: Request | None, __: list[Answer]) -> Iterator[bytes]:
    """A good reply to something else."""
    number = request.id if request else 1
    yield framed(liar.rng.choice([{"id": number, "ok": True, **fields} for fields in KINDS]))


KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"upload": "1" * 32, "part_size": 1, "missing": [[0, 9999]]},
    {"entries": [], "complete": True},
    {"entries": [], "complete": False},
    {"ns": {"disk": 1}, "line": {}},
    {"tree": "3" * 32, "resumed": True},
    {"replaced": False},
    {"keep_seconds": 0},
    {"steps": 2**53 - 1, "already": 0, "left": 2**62, "paths": [{"path": "../canary", "error": "changed"}]},
    {"digest": {"blake3": "f" * 64}, "file_size": 0, "etag": "0" * 32},
    {"entry": {"name": "x", "type": "file", "size": 1, "mtime_ns": 0, "mode": 0}},
    {"file_size": 0, "digest": {"md5": "d41d8cd98f00b204e9800998ecf8427e"}, "durable": True, "etag": "0" * 32},
    {"file_size": 2**62, "offset": 0, "length": 2**62, "mtime_ns": 0, "mode": 0, "etag": "0" * 32, "md5": None}
    | {"blake3": None},
)


def _many_signs(liar: Liar, _: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Hundreds of signs of life, of any number, then the truth."""
    number = request.id if request else 1
    for _n in range(liar.rng.choice([1, 50, 500])):
        yield framed({"id": number, "progress": liar.rng.choice([0, 5, 2**63 - 1, 2**62])})
    yield from (answer.data for answer in answers)


def _never_ready(_: Liar, talk: Talk, request: Request | None, __: list[Answer]) -> Iterator[bytes]:
    """Nothing but signs of life, for ever."""
    yield from _until_lost(framed({"id": request.id if request else 1, "progress": 0}), FOREVER_SECONDS)
    talk.server.failures.append(AssertionError("a client that waited for ever"))


def _flood(_: Liar, talk: Talk, request: Request | None, __: list[Answer]) -> Iterator[bytes]:
    """The same as fast as it goes."""
    yield from _until_lost(framed({"id": request.id if request else 1, "progress": 0}) * 1000, 0.0)
    talk.server.failures.append(AssertionError("a client that listened for ever"))


def _until_lost(data: bytes, pause: float) -> Iterator[bytes]:
    """Say it over and over: the client leaves first, and then this ends, or it has lost."""
    end = time.monotonic() + ENDLESS_SECONDS
    while time.monotonic() < end:
        yield data
        time.sleep(pause)


def _twice(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Every answer twice, or in another order, or not all of them."""
    said = liar.rng.choice([answers * 2, answers[::-1], answers[:-1], answers[1:]])
    yield from (answer.data for answer in said)


def _other_ids(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """To another request."""
    shift = liar.rng.choice([-1, 1, 1000])
    yield from (
        answer._replace(fields=answer.fields | {"id": answer.fields.get("id", 1) + shift}).data for answer in answers
    )


def _mangled(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Right bytes with some turned over, left out or put in."""
    rng = liar.rng
    data = bytearray(b"".join(answer.data for answer in answers))
    for _n in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 9)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                data[at:at] = rng.choice([b'"', b"{", b"[", b"\x1b[31m", b"\xff", b"\\u0000", b"9" * 400, b"-"])
        data = data or bytearray(b"x")
    yield bytes(data)


def _cut(liar: Liar, talk: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Right bytes, but not all of them; then the end."""
    data = b"".join(answer.data for answer in answers)
    yield data[: liar.rng.randrange(len(data))]
    liar._left = True
    talk.leave()


def _garbage(liar: Liar, _: Talk, __: Request | None, ___: list[Answer]) -> Iterator[bytes]:
    """Anything."""
    rng = liar.rng
    yield rng.choice(
        [
            rng.randbytes(rng.choice([1, 4, 100, 5000])),
            bytes(4),
            b"\xff\xff\xff\xff" + bytes(100),
            (70_000).to_bytes(4, "little") + bytes(70_000),
            framed(b"[" * 60_000),
            framed(b'{"id":' * 9_000),
            framed(b'{"id":1,"ok":true,"\xff":1}'),
            framed(b'{"id":1,"ok":false,"error":"x","message":"' + b"\\u001b[2J" * 7_000 + b'"}'),
            framed(b'{"' + b"\\u009b" * 10_000 + b'":1}'),
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
        ]
    )


def _silence(liar: Liar, talk: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Half an answer or none, and then nothing: the client waits no longer than its own limit."""
    data = b"".join(answer.data for answer in answers)
    yield data[: liar.rng.randrange(len(data))]
    liar._left = True


def _rename(talk: Talk, request: Any, entry: dict[str, Any], name: str) -> None:
    """Tell of a file under another name; who asks for it by that name gets it."""
    below = f"{request.path}/" if request.path else ""
    talk.server.model.aliases[below + name] = below + entry["name"]
    entry["name"] = name


def _names(liar: Liar, talk: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Entries under other names, of other kinds and sizes."""
    rng = liar.rng
    for answer in answers:
        entries = [dict(entry) for entry in answer.fields["entries"]]
        for entry in entries:
            if rng.random() < 0.6:
                _rename(talk, request, entry, rng.choice(rng.choice([NAMES, WAYS_OUT])))
            if rng.random() < 0.15:
                entry["type"] = rng.choice(["file", "directory", "symlink", "other"])
            if rng.random() < 0.15:
                entry["size"] = rng.choice([0, 1, 40, 3000, 2**40, 2**63 - 1])
            if rng.random() < 0.1:
                entry |= {"mode": rng.choice([0, 0o777]), "mtime_ns": rng.choice([-(2**63), 0, 2**63 - 1])}
        liar.note([entry["name"] for entry in entries])
        yield answer._replace(fields=answer.fields | {"entries": entries}).data


def _doubled_names(liar: Liar, talk: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Every entry more than once, in any order, some spelt otherwise."""
    rng = liar.rng
    for answer in answers:
        entries = [dict(entry) for entry in answer.fields["entries"] * 3]
        for entry in entries:
            if rng.random() < 0.3:
                _rename(talk, request, entry, entry["name"].swapcase())
            if rng.random() < 0.3:
                entry["size"] += 1
        rng.shuffle(entries)
        yield answer._replace(fields=answer.fields | {"entries": entries}).data


def _grafts(liar: Liar, talk: Talk, request: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Entries again below others, which may be files, and again as something of another kind."""
    rng = liar.rng
    for answer in answers:
        entries = [dict(entry) for entry in answer.fields["entries"]]
        more = [dict(entry) for entry in entries if rng.random() < 0.5]
        for entry in more:
            if rng.random() < 0.7:
                _rename(talk, request, entry, f"{rng.choice(entries)['name']}/{rng.choice(['x', 'b', 'x/y'])}")
            else:
                entry["type"] = rng.choice(["file", "directory", "symlink"])
        entries += more
        rng.shuffle(entries)
        liar.note([(entry["name"], entry["type"]) for entry in entries])
        yield answer._replace(fields=answer.fields | {"entries": entries}).data


def _times(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Every entry of another time, and some of another size, than what is then sent."""
    rng = liar.rng
    for answer in answers:
        entries = [dict(entry) for entry in answer.fields["entries"]]
        for entry in entries:
            entry["mtime_ns"] += rng.choice([-1, 1, 999, -(10**9), 2**60])
            entry["size"] += rng.choice([0, 0, 0, 1])
        yield answer._replace(fields=answer.fields | {"entries": entries}).data


def _pages(answers: list[Answer], count: int, entries: Callable[[int], list[dict[str, Any]]]) -> Iterator[bytes]:
    fields = answers[0].fields
    for number in range(count):
        yield framed(fields | {"entries": entries(number), "complete": False})


def _long_listing(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Page after page of what does not exist; then the end without a last page."""
    entry = {"type": liar.rng.choice(["file", "directory", "other"]), "size": 0, "mtime_ns": 0, "mode": 0o644}
    yield from _pages(answers, PAGES, lambda number: [entry | {"name": f"n{number:06}-{i:03}"} for i in range(4)])


def _endless_listing(liar: Liar, talk: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """The same, for ever: one name, ever new ones, or no names at all."""
    kind = liar.rng.choice(["none", "same", "new"])
    liar.note(kind)
    entry = {"name": "zz", "type": "other", "size": 0, "mtime_ns": 0, "mode": 0o644}
    end, number = time.monotonic() + ENDLESS_SECONDS, 0
    while time.monotonic() < end:
        entries = {"none": [], "same": [entry] * 100}.get(kind)
        if entries is None:
            entries = [entry | {"name": f"zz{number:09}-{i:03}"} for i in range(100)]
        number += 1
        yield framed(answers[0].fields | {"entries": entries, "complete": False})
    talk.server.failures.append(AssertionError("a client that took an endless listing"))


def _deep(liar: Liar, _: Talk, __: Request | None, answers: list[Answer]) -> Iterator[bytes]:
    """Folders in folders, as deep as names go and deeper; and things below things that are no folders."""
    fields, count = answers[0].fields, liar.rng.choice([60, 64, 65, 200])
    kind = liar.rng.choice(["directory", "file", "symlink"])
    entries = [
        {"name": "/".join(["d"] * depth), "type": kind, "size": 0, "mtime_ns": 0, "mode": 0o755}
        for depth in range(1, count)
    ]
    yield framed(fields | {"entries": entries, "complete": True})


LIES: tuple[Lie, ...] = (
    *(_fields, _fields, _fields, _fields, _fields, _trailer, _trailer, _body, _body, _body, _body, _other_content),
    *(_refusal, _refusal, _another_kind, _many_signs, _twice, _other_ids, _mangled, _mangled, _cut, _cut, _garbage),
)
LISTING_LIES: tuple[Lie, ...] = (
    *(_names, _names, _names, _doubled_names, _doubled_names, _times, _grafts, _long_listing, _deep, _fields),
)
SLOW_LIES: tuple[Lie, ...] = (_never_ready, _flood, _silence)
SLOW_LISTING_LIES: tuple[Lie, ...] = (*SLOW_LIES, _endless_listing, _endless_listing)
"""Those that end by a limit of the client's only; each costs some tenths of a second."""
