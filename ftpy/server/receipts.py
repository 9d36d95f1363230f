"""receipt: what is stored, stated and signed."""

from __future__ import annotations

import socket
import time

from ftpy.errors import Changed, PermissionDenied
from ftpy.server.context import Context
from ftpy.server.reading import known_digest
from ftpy.wire.receipts import Receipt, ReceiptReply, ReceiptRequest, Statement
from ftpy.wire.spelling import b64encode

MOST_NAME = 255
"""Characters of this host's name."""


def handle_receipt(request: ReceiptRequest, context: Context) -> ReceiptReply:
    """State what is durably stored at a path, by the certificate's key."""
    path = request.remote_path()
    with context.storage.open(path) as reader:
        info = reader.info
        if request.etag is not None and request.etag != info.etag:
            raise Changed
        context.channel.patiently(lambda: context.storage.assure(reader), progress=lambda: 0)
        known = {"md5": info.md5, "blake3": info.blake3}
        if known[request.digest] is None and "read" not in context.account.permissions.at(path):
            raise PermissionDenied("this user may not read that, so no digest of it is computed")
        known[request.digest] = known_digest(reader, request.digest, context)
        reader.check_unchanged()
    statement = Statement.of(
        path,
        size=info.size,
        time_ns=time.time_ns(),
        server=socket.gethostname()[:MOST_NAME],
        user=context.account.name,
        **{name: digest for name, digest in known.items() if digest is not None},
    )
    unsigned = Receipt(statement=statement.text(), signature="", certificate=b64encode(context.identity.certificate))
    signature = context.identity.sign(unsigned.signed())
    return ReceiptReply(
        id=request.id,
        receipt=Receipt(statement=unsigned.statement, signature=b64encode(signature), certificate=unsigned.certificate),
    )
