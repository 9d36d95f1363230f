"""All verbs in any order against the ``model``: what is answered, and what is there afterwards (promises 2, 4, 7).

Two connections of one user take turns. Hypothesis chooses what is said, and shortens what fails.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

from blake3 import blake3
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import (
    AlreadyExists,
    Changed,
    DigestMismatch,
    Incomplete,
    InvalidRequest,
    NotADirectory,
    NotEmpty,
    NotFound,
    RequestError,
    UnknownUpload,
)
from ftpy.wire.bases import Reply, Request
from ftpy.wire.fields import DigestOf
from ftpy.wire.messages import (
    AbortReply,
    AbortRequest,
    CommitRequest,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    LsReply,
    LsRequest,
    MkdirReply,
    MkdirRequest,
    MvReply,
    MvRequest,
    PartReply,
    PartRequest,
    PutRequest,
    RmReply,
    RmRequest,
    StoredReply,
    UploadReply,
)
from ftpy.wire.upkeep import TouchReply, TouchRequest
from tests.rig import Host
from tests.rigs.model import INLINE, PART, SECOND, Fault, File, Model, Path, Upload, content, md5, small_parts

LIMITS = Limits(inline_bytes=INLINE)
PATIENT = Transfer(stall_seconds=60.0, connect_seconds=60.0, streams=1)
"""A campaign beside other work: what is slow is no defect here, what hangs is."""

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
folders = st.lists(names, max_size=2).map(tuple)
times = st.integers(1, 3).map(lambda seconds: seconds * SECOND)
bodies = st.binary(max_size=3)
sizes = st.sampled_from([INLINE + 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 17])
connections = st.integers(0, 1)
conditions = st.sampled_from([None, None, None, "absent", "there", "other"])
spoilt = st.sampled_from([False, False, False, False, True])

numbers = itertools.count()


def machine_over(host: Host) -> type[RuleBasedStateMachine]:
    """The machine, bound to a server that runs, whose parts are ``small_parts`` and which takes INLINE bytes inline."""

    class Machine(RuleBasedStateMachine):
        """Every example has a folder of its own on the server, and two connections."""

        def __init__(self) -> None:
            super().__init__()
            self.model = Model()
            self.top = f"example-{next(numbers)}"
            self.left = set(host.uploads)
            """What an example that failed has left."""
            self.open = [Connection.open(host.profile(), PATIENT) for _ in range(2)]
            self.held: list[dict[str, bool]] = [{}, {}]
            """Uploads that each connection has put, and whether they ended since: then it has to put them again."""

        def teardown(self) -> None:
            """Everything is as the model says, to the last byte; nothing unfinished stays."""
            try:
                for path, node in self.model.nodes.items():
                    if node is not None:
                        assert (host.root / self.top / "/".join(path)).read_bytes() == node.data
                for upload in self.model.uploads.values():
                    self.call(0, AbortRequest(id=1, upload=upload.id), AbortReply)
                assert set(host.uploads) == self.left
            finally:
                for connection in self.open:
                    connection.close()

        # ------------------------------------------------------------ saying it

        def at(self, path: Path) -> str:
            """The path on the server."""
            return "/".join((self.top, *path))

        def call(
            self, number: int, request: Request, kind: type[Reply], body: bytes | None = None, **spoil: Any
        ) -> Any:
            """What one connection is answered: a reply, or the error that it carries."""
            channel = self.open[number].channel
            channel.send(request)
            if body is not None:
                channel.send_body(body)
                name = spoil.get("digest", "md5")
                right = md5(body) if name == "md5" else blake3(body).hexdigest()
                channel.send_trailer(name, right[::-1] if spoil.get("spoilt") else right)
            try:
                return self.open[number].wait(kind)
            except RequestError as error:
                return error

        def condition(self, path: Path, wanted: str | None) -> Any:
            """A condition that holds now, one that does not, or none."""
            if wanted in (None, "absent"):
                return wanted
            there = self.model.nodes.get(path)
            data = there.data if there is not None else b""
            return DigestOf(md5=md5(data if wanted == "there" else data + b"other"))

        def expect(self, answer: Any, faults: set[Fault], kind: type[Reply]) -> bool:
            """The answer is one of the faults, or good where there are none: whether it is good."""
            if faults:
                assert type(answer) in faults, (answer, faults)
                return False
            assert isinstance(answer, kind), answer
            return True

        # ------------------------------------------------------------ verbs

        @initialize()
        def begin(self) -> None:
            """A folder of its own."""
            assert isinstance(self.call(0, MkdirRequest(id=1, path=self.top), MkdirReply), MkdirReply)

        @rule(number=connections, path=paths, body=bodies, mtime_ns=times, wanted=conditions, spoilt=spoilt)
        def put(self, number: int, path: Path, body: bytes, mtime_ns: int, wanted: str | None, spoilt: bool) -> None:
            """A small file."""
            condition = self.condition(path, wanted)
            request = PutRequest(
                id=1,
                path=self.at(path),
                file_size=len(body),
                length=len(body),
                mtime_ns=mtime_ns,
                condition=condition,
            )
            answer = self.call(number, request, StoredReply, body, spoilt=spoilt and md5(body) != md5(body)[::-1])
            faults: set[Fault] = {DigestMismatch} if spoilt else self.model.publishing(path, condition)
            if self.expect(answer, faults, StoredReply):
                assert (answer.file_size, answer.digest.md5, answer.durable) == (len(body), md5(body), True)
                self.model.publish(path, File(body, mtime_ns))

        @rule(number=connections, path=paths, size=sizes, mtime_ns=times, wanted=conditions)
        def open_upload(self, number: int, path: Path, size: int, mtime_ns: int, wanted: str | None) -> None:
            """A large one: begun, or found again."""
            condition = self.condition(path, wanted)
            request = PutRequest(id=1, path=self.at(path), file_size=size, mtime_ns=mtime_ns, condition=condition)
            answer = self.call(number, request, UploadReply)
            if self.expect(answer, self.model.publishing(path, condition), UploadReply):
                key = (path, size, mtime_ns)
                new = Upload(answer.upload, path, content(size, mtime_ns, path), mtime_ns, condition)
                upload = self.model.uploads.setdefault(key, new)
                upload.condition = condition
                missing = set(range(upload.parts)) - upload.stored
                assert {n for first, last in answer.missing for n in range(first, last + 1)} == missing
                assert (answer.upload, answer.part_size) == (upload.id, PART)
                self.held[number][upload.id] = False

        def some(self, data: st.DataObject) -> Upload:
            """One of the uploads; one that was never begun where there is none."""
            if not self.model.uploads:
                return Upload("0" * 32, ("a",), b"x" * PART, SECOND, None)
            return self.model.uploads[data.draw(st.sampled_from(sorted(self.model.uploads)))]

        def is_known(self, upload: Upload) -> bool:
            """Whether the server has to know it."""
            return upload in self.model.uploads.values()

        def end(self, number: int, upload: Upload) -> None:
            """An upload has ended by what this connection said: the other one's hand on it is on nothing now."""
            del self.model.uploads[upload.path, len(upload.data), upload.mtime_ns]
            self.held[number].pop(upload.id, None)
            for held in self.held:
                if upload.id in held:
                    held[upload.id] = True

        def holds_nothing(self, number: int, upload: Upload) -> bool:
            """Whether this connection's put of it has ended, though another has begun it anew."""
            return self.held[number].get(upload.id, False)

        @rule(data=st.data(), number=connections, part=st.integers(0, 4), spoilt=spoilt)
        def part(self, data: st.DataObject, number: int, part: int, spoilt: bool) -> None:
            """A part, right or spoilt, new or once more."""
            upload = self.some(data)
            body = upload.part(part) or b"x"
            request = PartRequest(id=1, upload=upload.id, part=part, length=len(body))
            answer = self.call(number, request, PartReply, body, digest="blake3", spoilt=spoilt)
            faults: set[Fault] = {DigestMismatch} if spoilt else set()
            if not self.is_known(upload) or self.holds_nothing(number, upload):
                faults = {UnknownUpload}
            elif part >= upload.parts:
                faults = {InvalidRequest}
            if self.expect(answer, faults, PartReply):
                upload.stored.add(part)

        @rule(number=connections, path=paths, size=sizes, mtime_ns=times, ends=st.sampled_from(["", "right", "spoilt"]))
        def all_parts(self, number: int, path: Path, size: int, mtime_ns: int, ends: str) -> None:
            """An upload and all parts that are missing of it, and perhaps its end: else few would ever be whole."""
            self.open_upload(number, path, size, mtime_ns, None)
            if upload := self.model.uploads.get((path, size, mtime_ns)):
                for part in sorted(set(range(upload.parts)) - upload.stored):
                    request = PartRequest(id=1, upload=upload.id, part=part, length=len(upload.part(part)))
                    answer = self.call(number, request, PartReply, upload.part(part), digest="blake3")
                    assert isinstance(answer, PartReply), answer
                    upload.stored.add(part)
                if ends:
                    self.commit_of(number, upload, spoilt=ends == "spoilt")

        @rule(data=st.data(), number=connections, spoilt=spoilt)
        def commit(self, data: st.DataObject, number: int, spoilt: bool) -> None:
            """The end of an upload, if it is whole and what it should be."""
            self.commit_of(number, self.some(data), spoilt=spoilt)

        def commit_of(self, number: int, upload: Upload, *, spoilt: bool) -> None:
            digest = DigestOf(md5=md5(upload.data + b"other" if spoilt else upload.data))
            answer = self.call(number, CommitRequest(id=1, upload=upload.id, digest=digest), StoredReply)
            if not self.is_known(upload):
                self.expect(answer, {UnknownUpload}, StoredReply)
            elif self.holds_nothing(number, upload):
                # What it had put is published, by the other one, or dropped.
                assert isinstance(answer, StoredReply | UnknownUpload | AlreadyExists | Changed), answer
            elif len(upload.stored) < upload.parts:
                self.expect(answer, {Incomplete}, StoredReply)
            elif spoilt:
                self.expect(answer, {DigestMismatch}, StoredReply)
                self.end(number, upload)
            elif self.expect_publication(number, answer, upload):
                assert (answer.file_size, answer.digest.md5) == (len(upload.data), md5(upload.data))
                self.model.publish(upload.path, File(upload.data, upload.mtime_ns))
                self.end(number, upload)

        def expect_publication(self, number: int, answer: Any, upload: Upload) -> bool:
            """A hand keeps the condition of its own put: with two connections it is one that was asked for."""
            if isinstance(answer, StoredReply):
                assert not self.model.publishing(upload.path, None)
                return True
            faults = self.model.publishing(upload.path, None) | self.model.publishing(upload.path, upload.condition)
            assert type(answer) in faults | {AlreadyExists, Changed}, answer
            return False

        @rule(data=st.data(), number=connections)
        def abort(self, data: st.DataObject, number: int) -> None:
            """An upload is given up."""
            upload = self.some(data)
            answer = self.call(number, AbortRequest(id=1, upload=upload.id), AbortReply)
            if self.expect(answer, set() if self.is_known(upload) else {UnknownUpload}, AbortReply):
                self.end(number, upload)

        @rule(number=connections, path=paths, parents=st.booleans(), mtime_ns=st.none() | times)
        def mkdir(self, number: int, path: Path, parents: bool, mtime_ns: int | None) -> None:
            """A folder."""
            request = MkdirRequest(id=1, path=self.at(path), parents=parents, mtime_ns=mtime_ns)
            answer = self.call(number, request, MkdirReply)
            way = self.model.way((*path, "")) if parents else self.model.reach(path[:-1])
            faults: set[Fault] = {way} if way else set()
            if not way and not parents:
                if self.model.nodes[path[:-1]] is not None:
                    faults = {NotADirectory}
                elif path in self.model.nodes:
                    faults = {AlreadyExists}
            if self.expect(answer, faults, MkdirReply):
                self.model.make_way(path)

        @rule(number=connections, path=paths, mtime_ns=times, create=st.booleans())
        def touch(self, number: int, path: Path, mtime_ns: int, create: bool) -> None:
            """Another time, or an empty file."""
            request = TouchRequest(id=1, path=self.at(path), mtime_ns=mtime_ns, create=create)
            faults: set[Fault] = set()
            if path not in self.model.nodes and (fault := self.model.way(path) or (None if create else NotFound)):
                faults = {fault}
            answer = self.call(number, request, TouchReply)
            if self.expect(answer, faults, TouchReply):
                assert (answer.mtime_ns, answer.created) == (mtime_ns, path not in self.model.nodes)
                there = self.model.nodes.get(path)
                if path not in self.model.nodes:
                    self.model.publish(path, File(b"", mtime_ns))
                elif there is not None:
                    self.model.nodes[path] = File(there.data, mtime_ns)

        @rule(number=connections, path=paths, recursive=st.booleans())
        def rm(self, number: int, path: Path, recursive: bool) -> None:
            """A file or a folder goes."""
            below = self.model.below(path, recursive=True)
            faults: set[Fault] = set()
            if fault := self.model.reach(path):
                faults = {fault}
            elif below and not recursive:
                faults = {NotEmpty}
            answer = self.call(number, RmRequest(id=1, path=self.at(path), recursive=recursive), RmReply)
            if self.expect(answer, faults, RmReply):
                gone = {path: self.model.nodes[path], **below}
                files = sum(node is not None for node in gone.values())
                assert (answer.files, answer.folders) == (files, len(gone) - files)
                for one in gone:
                    del self.model.nodes[one]

        @rule(number=connections, path=paths, to=paths, absent=st.booleans())
        def mv(self, number: int, path: Path, to: Path, absent: bool) -> None:
            """A file or a folder gets another path."""
            request = MvRequest(id=1, path=self.at(path), to=self.at(to), condition="absent" if absent else None)
            answer = self.call(number, request, MvReply)
            if self.expect(answer, self.model.moving(path, to, absent=absent), MvReply):
                moved = {path: self.model.nodes[path], **self.model.below(path, recursive=True)}
                for one in moved:
                    del self.model.nodes[one]
                self.model.nodes |= {(*to, *one[len(path) :]): node for one, node in moved.items()}

        @rule(number=connections, path=paths, offset=st.integers(0, 3), count=st.none() | st.integers(0, 3 * PART))
        def get(self, number: int, path: Path, offset: int, count: int | None) -> None:
            """A file, or a range of it."""
            file = self.model.file(path)
            faults: set[Fault] = set()
            if not isinstance(file, File):
                faults = {file}
            elif offset > len(file.data):
                faults = {InvalidRequest}
            answer = self.call(number, GetRequest(id=1, path=self.at(path), offset=offset, count=count), GetReply)
            if self.expect(answer, faults, GetReply):
                assert isinstance(file, File)
                body = bytes(self.open[number].channel.receive_body())
                trailer = self.open[number].channel.receive_trailer()
                end = None if count is None else offset + count
                assert body == file.data[offset:end] and answer.mtime_ns == file.mtime_ns
                whole = len(body) == len(file.data)
                assert trailer.hex == (md5(body) if whole else blake3(body).hexdigest())

        @rule(number=connections, path=paths)
        def digest(self, number: int, path: Path) -> None:
            """The digest of a file."""
            file = self.model.file(path)
            answer = self.call(number, DigestRequest(id=1, path=self.at(path)), DigestReply)
            if self.expect(answer, set() if isinstance(file, File) else {file}, DigestReply):
                assert isinstance(file, File)
                assert (answer.digest.md5, answer.file_size) == (md5(file.data), len(file.data))

        @rule(number=connections, path=folders, recursive=st.booleans())
        def ls(self, number: int, path: Path, recursive: bool) -> None:
            """A listing."""
            faults: set[Fault] = set()
            if fault := self.model.reach(path):
                faults = {fault}
            elif self.model.nodes[path] is not None:
                faults = {NotADirectory}
            answer = self.call(number, LsRequest(id=1, path=self.at(path), recursive=recursive), LsReply)
            if self.expect(answer, faults, LsReply):
                assert answer.complete
                found = {tuple(entry.name.split("/")): entry for entry in answer.entries}
                below = self.model.below(path, recursive=recursive)
                assert {(*path, *name) for name in found} == set(below)
                for name, entry in found.items():
                    node = below[(*path, *name)]
                    assert entry.type == ("directory" if node is None else "file")
                    assert node is None or (entry.size, entry.mtime_ns) == (len(node.data), node.mtime_ns)

        @rule(number=connections)
        def leave_in_the_middle(self, number: int) -> None:
            """A connection ends in the middle of a body, and another takes its place."""
            channel = self.open[number].channel
            channel.send(PutRequest(id=1, path=self.at(("a", "half")), file_size=9, length=9, mtime_ns=1))
            channel.send_body(b"half")
            channel.flush()
            self.open[number].close()
            self.open[number] = Connection.open(host.profile(), PATIENT)
            self.held[number] = {}

        @invariant()
        def nothing_unfinished_is_seen(self) -> None:
            """What lies below the root is what the model has, no more and no less."""
            top = host.root / self.top
            found = {path.relative_to(top).parts for path in top.rglob("*")} | {()} if top.exists() else {()}
            assert found == set(self.model.nodes)
            assert set(host.uploads) - self.left == {upload.id for upload in self.model.uploads.values()}

    return Machine


@contextlib.contextmanager
def parts_are_small() -> Iterator[None]:
    """While it lasts, servers of this process make uploads of small parts."""
    with mock.patch("ftpy.storage.uploadfiles.part_size_for", small_parts):
        yield


def run(host: Host, examples: int, steps: int, *, shortened: bool = True) -> None:
    """So many examples of so many steps; what fails is raised, ``shortened``.

    The host has LIMITS, and its ``parts_are_small``.
    """
    run_state_machine_as_test(
        machine_over(host),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate, *([Phase.shrink] if shortened else [])],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
