"""A part's digest is what its request named, and both kinds may meet in one upload."""

from __future__ import annotations

import hashlib

import pytest

from ftpy.client.connection import Connection
from ftpy.digests import PART_DIGEST_NAMES, PartDigestName, hexdigest
from ftpy.errors import DigestMismatch, InvalidRequest
from ftpy.wire.fields import digest_of
from ftpy.wire.messages import CommitRequest, PartReply, PartRequest, PutRequest, StoredReply, UploadReply
from tests.rig import FAST, Host

MIB = 1024 * 1024


def test_parts_of_either_digest_make_one_file_and_others_are_refused(host: Host) -> None:
    data = hashlib.shake_128(b"parts").digest(9 * MIB)
    live = Connection.open(host.profile(), FAST)
    try:
        upload = live.call(PutRequest(id=live.next_id(), path="x", file_size=len(data), mtime_ns=0), UploadReply)
        parts = [data[at : at + upload.part_size] for at in range(0, len(data), upload.part_size)]
        assert len(parts) == 2 and live.part_digest == "xxh128"

        def send(number: int, named: PartDigestName, sent: PartDigestName, of: int) -> None:
            live.channel.send(
                PartRequest(
                    id=live.next_id(), upload=upload.upload, part=number, length=len(parts[number]), digest=named
                )
            )
            live.channel.send_body(parts[number])
            live.channel.send_trailer(sent, hexdigest(sent, parts[of]))
            live.wait(PartReply)

        for named, sent in (PART_DIGEST_NAMES, PART_DIGEST_NAMES[::-1]):
            with pytest.raises(InvalidRequest):
                send(0, named, sent, 0)
            with pytest.raises(DigestMismatch):
                send(0, named, named, 1)
        send(0, "xxh128", "xxh128", 0)
        send(0, "blake3", "blake3", 0)  # again, by the other digest: it is the same part
        with pytest.raises(DigestMismatch):
            send(0, "blake3", "blake3", 1)
        send(1, "blake3", "blake3", 1)
        whole = digest_of("md5", hashlib.md5(data).hexdigest())
        stored = live.call(CommitRequest(id=live.next_id(), upload=upload.upload, digest=whole), StoredReply)
        assert stored.digest == whole and (host.root / "x").read_bytes() == data
    finally:
        live.close()
