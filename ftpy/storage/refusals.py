"""The one place where a system error becomes a ``RequestError``: by table, naming the remote path only."""

from __future__ import annotations

import errno

from ftpy import errors
from ftpy.errors import RequestError, Translating
from ftpy.files import RemotePath, display

REFUSALS: dict[int, tuple[type[RequestError], str]] = {
    errno.ENOENT: (errors.NotFound, "there is no such file or directory"),
    errno.ENOTDIR: (errors.NotADirectory, "something on the way is not a directory"),
    errno.EISDIR: (errors.IsADirectory, "that is a directory"),
    errno.ELOOP: (errors.NotAFile, "symbolic links are never followed"),
    errno.ENXIO: (errors.NotAFile, "that is not a regular file"),
    errno.ENOTEMPTY: (errors.NotEmpty, "the folder is not empty"),
    errno.EEXIST: (errors.AlreadyExists, "something is already there"),
    errno.EACCES: (errors.PermissionDenied, "the server itself may not do that"),
    errno.EPERM: (errors.PermissionDenied, "the server itself may not do that"),
    errno.EROFS: (errors.PermissionDenied, "the server's disk is read-only"),
    errno.ENAMETOOLONG: (errors.InvalidPath, "the name is too long for the server's disk"),
    errno.EILSEQ: (errors.InvalidPath, "the server's disk cannot hold this name"),
    errno.ENOSPC: (errors.NoSpace, "the server's disk is full"),
    errno.EFBIG: (errors.NoSpace, "the file is too large for the server's disk"),
    errno.EDQUOT: (errors.QuotaExceeded, "the disk quota is used up"),
    errno.EXDEV: (errors.Unsupported, "another file system is mounted there; ftpy writes to that of its root only"),
    errno.EBUSY: (errors.Unsupported, "something is mounted there"),
    errno.EMFILE: (errors.Busy, "the server has too many files open; try again later"),
    errno.ENFILE: (errors.Busy, "the server has too many files open; try again later"),
    errno.ENOMEM: (errors.Busy, "the server is out of memory; try again later"),
    errno.EAGAIN: (errors.Busy, "in use; try again later"),
    errno.ESTALE: (errors.Changed, "the file was replaced meanwhile"),
}
"""errno -> class and sentence; whatever is not here is an IoError."""

_OTHERWISE = (errors.IoError, "the server's disk failed")


def refusal(error: OSError, path: RemotePath) -> RequestError:
    """What ``error``, its cause, means for the request about ``path``; the host's own paths stay out of it."""
    kind, sentence = REFUSALS.get(error.errno or 0, _OTHERWISE)
    refused = kind(f"{display(str(path)) or '/'}: {sentence}")
    refused.__cause__ = error
    return refused


class translating(Translating):  # noqa: N801  (reads as a statement: with translating(path))
    """Inside the ``with``, an OSError becomes the ``refusal`` for ``path``."""

    __slots__ = ("_path",)

    def __init__(self, path: RemotePath) -> None:
        self._path = path

    def translate(self, error: BaseException) -> None:
        """An OSError into its refusal; anything else stays."""
        if isinstance(error, OSError):
            raise refusal(error, self._path) from error
