"""``ftpy``: the workstation's commands."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from ftpy.cli.common import EPILOG, run_main
from ftpy.digests import DIGEST_NAMES, DigestName
from ftpy.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    FtpyError,
    NotADirectory,
    NotFound,
    PermissionDenied,
    RequestError,
)
from ftpy.files import FileInfo, RemotePath, check_portable, display
from ftpy.version import __version__

if TYPE_CHECKING:
    from ftpy.cli.bars import Bar
    from ftpy.client.client import Client
    from ftpy.client.results import Fetched, Stored

F = Callable[..., Any]


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n\n" + EPILOG


server_option = click.option(
    "-s", "--server", metavar="NAME", help="Which paired server; $FTPY_SERVER, or the default, or the only one."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No bars and no summary; errors are still said.")
digest_option = click.option(
    "-d", "--digest", type=click.Choice(DIGEST_NAMES), help="What verifies the whole file; md5 unless configured."
)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ftpy")
def ftpy() -> None:
    """Move files to and from a host: verified end to end, resumed by itself, atomic, encrypted.

    Pair once with the token that `ftpy-server init` printed, then put, get and ls.
    """


@ftpy.command(epilog=_examples("ftpy pair home", "ssh host ftpy-server init | ftpy pair home"))
@click.argument("name")
@click.option("--address", "addresses", multiple=True, metavar="HOST:PORT", help="Use this instead of the token's own.")
@click.option("--force", is_flag=True, help="Replace a profile of that name.")
def pair(name: str, addresses: tuple[str, ...], force: bool) -> None:
    """Store a server under NAME, from the pairing token that it printed.

    The token is a secret: it is asked for without an echo, or read from standard input, never from the command line.
    One connection proves both ends before anything is stored.
    """
    from ftpy.client.client import Client
    from ftpy.config import Profile, client_config_path, load_client_config, parse_address, save_profile
    from ftpy.wire.token import PairingToken

    path = client_config_path()
    if name in load_client_config(path).servers and not force:
        raise ConfigError(f"there is a server named {name!r} already; --force replaces it")
    for address in addresses:
        parse_address(address)
    text = click.prompt("Pairing token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = PairingToken.from_text(text)
    profile = Profile(
        addresses=list(addresses) or token.addresses,
        user=token.user,
        key=token.key,
        certificate_sha256=token.certificate_sha256,
    )
    with Client(profile) as client:
        server, rights = client.server, ", ".join(sorted(client.rights))
    save_profile(path, name, profile)
    click.echo(f"paired with {name} ({display(server)}) as {profile.user}: {display(rights)}", err=True)


@ftpy.command(
    epilog=_examples("ftpy put report.pdf", "ftpy put a.jpg b.jpg photos/", "tar cz src | ftpy put - backups/src.tgz")
)
@click.argument("paths", nargs=-1, required=True, metavar="SRC... [DEST]")
@click.option("--if-absent", is_flag=True, help="Refuse where DEST exists already.")
@digest_option
@quiet_option
@json_option
@server_option
def put(
    *,
    paths: tuple[str, ...],
    if_absent: bool,
    digest: DigestName | None,
    quiet: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Store files on the server.

    Like cp: the last of several paths is the destination, and one alone keeps its name. A destination that is there
    is replaced at once and whole, or not at all. Missing folders are made. A put that was interrupted goes on where it
    stood. `-` is standard input.
    """
    sources, dest = _split(paths)
    nameless = click.UsageError("standard input needs a destination with a name: ftpy put - FILE")
    if "-" in sources and (len(sources) > 1 or dest is None or dest.endswith("/")):
        raise nameless

    def one(client: Client, source: str, folder: bool, bar: Bar) -> Stored:
        stream = sys.stdin.buffer if source == "-" else source
        condition: Any = "absent" if if_absent else None
        target = _remote_target(source, dest, folder)
        return client.put(stream, target, digest=digest, condition=condition, on_progress=bar)

    def run(client: Client) -> Iterator[tuple[str, Callable[[Bar], Stored]]]:
        folder = _is_remote_folder(client, dest, len(sources))
        if folder and "-" in sources:
            raise nameless
        for source in sources:
            yield source, functools.partial(one, client, source, folder)

    return _transfer(run, server, quiet, as_json, to_stderr=False)


@ftpy.command(
    epilog=_examples("ftpy get photos/a.jpg", "ftpy get logs/1.gz logs/2.gz /tmp/", "ftpy get big.iso - | sha256sum")
)
@click.argument("paths", nargs=-1, required=True, metavar="SRC... [DEST]")
@click.option("--force", is_flag=True, help="Replace a different file that is there.")
@digest_option
@quiet_option
@json_option
@server_option
def get(
    *, paths: tuple[str, ...], force: bool, digest: DigestName | None, quiet: bool, as_json: bool, server: str | None
) -> int:
    """Fetch files from the server.

    Like cp: the last of several paths is the destination on this side, and one alone keeps its name. A file appears
    only when it is verified; an interrupted get goes on where it stood. A different file that is there already is
    kept, unless --force. `-` is standard output.
    """
    sources, dest = _split(paths)

    def one(client: Client, source: str, bar: Bar) -> Fetched:
        fetch = functools.partial(client.get, _remote_path(source), digest=digest, force=force, on_progress=bar)
        if dest != "-":
            return fetch(_local_target(_remote_path(source), dest, len(sources)))
        # Past the buffer of sys.stdout, which would try again at exit to write what could not be written.
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as output:
            return fetch(output)

    def run(client: Client) -> Iterator[tuple[str, Callable[[Bar], Fetched]]]:
        for source in sources:
            yield source, functools.partial(one, client, source)

    return _transfer(run, server, quiet, as_json, to_stderr=dest == "-")


@ftpy.command(epilog=_examples("ftpy ls", "ftpy ls -l photos", "ftpy ls --json -R | jq .path"))
@click.argument("path", default="")
@click.option("-l", "--long", is_flag=True, help="Type and mode, size in bytes, time, name.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
@click.option("--digest", "digests", is_flag=True, help="Each file's md5, computed by the server where not known.")
@json_option
@server_option
def ls(*, path: str, long: bool, recursive: bool, digests: bool, as_json: bool, server: str | None) -> None:
    """List a folder on the server."""
    where = _remote_path(path)
    with _client(server) as client:
        entries = _listing(client, where, recursive)
        if digests:
            # The connection is the listing's until it ends; only then can digests be asked for.
            entries = iter([_with_digest(client, info) for info in list(entries)])
        for info in entries:
            _print_info(info, where, long=long, digest=digests, as_json=as_json)


@ftpy.command(epilog=_examples("ftpy stat photos/a.jpg"))
@click.argument("path")
@json_option
@server_option
def stat(path: str, as_json: bool, server: str | None) -> None:
    """Say what is known of one path."""
    with _client(server) as client:
        info = client.stat(_remote_path(path))
    fields = _fields(info)
    if as_json:
        _print_json(fields)
    else:
        for key, value in fields.items():
            click.echo(f"{key:8} {display(str(value))}")


@ftpy.command("digest", epilog=_examples("ftpy digest big.iso", "ftpy digest -d blake3 big.iso"))
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@digest_option
@json_option
@server_option
def digest_(paths: tuple[str, ...], digest: DigestName | None, as_json: bool, server: str | None) -> int:
    """Print the digest of files on the server, as md5sum prints it."""
    code = 0
    with _client(server) as client:
        for path in paths:
            try:
                known = client.digest(_remote_path(path), digest)
            except RequestError as error:
                code = max(code, error.exit_code)
                _report_failure(path, error, as_json)
            else:
                if as_json:
                    _print_json({"path": path, known.name: known.hex})
                else:
                    click.echo(f"{known.hex}  {display(path)}")
    return code


# ------------------------------------------------------------------ transfers


def _transfer(run: F, server: str | None, quiet: bool, as_json: bool, *, to_stderr: bool) -> int:
    """Do one transfer after the other; a file that fails is reported and does not stop the others: the exit code."""
    from ftpy.cli.bars import Bar

    code = 0
    current: list[Bar] = []

    def notify(line: str) -> None:
        if current:
            current[-1].say(f"ftpy: {line}")
        else:
            click.echo(f"ftpy: {display(line)}", err=True)

    with _client(server, notify) as client:
        for name, transfer in run(client):
            try:
                with Bar(os.path.basename(name) or name, quiet=quiet) as bar:
                    current[:] = [bar]
                    result = transfer(bar)
            except (ConnectionFailed, AuthenticationFailed, ConfigError):
                raise
            except FtpyError as error:
                code = max(code, error.exit_code)
                _report_failure(name, error, as_json, to_stderr=to_stderr)
            else:
                _report_result(name, result, quiet=quiet, as_json=as_json, to_stderr=to_stderr)
            finally:
                current.clear()
    return code


def _report_failure(name: str, error: FtpyError, as_json: bool, *, to_stderr: bool = False) -> None:
    text = str(error)
    shown, base = display(name), display(os.path.basename(name.rstrip("/")))
    named = text.startswith((f"{shown}:", f"{shown} ", f"{base}:")) or f"/{base}:" in text
    if not named and name != "-":
        text = f"{shown}: {text}"
    click.echo(f"ftpy: {display(text)}", err=True)
    if as_json:
        _print_json(
            {"source": name, "ok": False, "error": type(error).__name__, "message": str(error)}, to_stderr=to_stderr
        )


def _report_result(name: str, result: Any, *, quiet: bool, as_json: bool, to_stderr: bool) -> None:
    """One line that says what is true of the file now."""
    if as_json:
        fields = {
            "source": name,
            "ok": True,
            "path": str(result.path),
            "size": result.size,
            result.digest.name: result.digest.hex,
            "durable": result.durable,
            "resumed": result.resumed,
        }
        if hasattr(result, "target"):
            fields |= {"target": result.target, "identical": result.identical}
        _print_json(fields, to_stderr=to_stderr)
    elif not quiet:
        facts = [f"verified {result.digest.name} {result.digest.hex}"]
        if result.durable:
            facts.append("durable")
        if result.resumed:
            facts.append(f"resumed at {_size(result.resumed)}")
        if getattr(result, "identical", False):
            facts = [f"identical already, {facts[0]}"]
        where = result.path if name == "-" or not hasattr(result, "target") else result.target or result.path
        click.echo(f"{display(str(where))}: {_size(result.size)}, {', '.join(facts)}", err=to_stderr)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@contextlib.contextmanager
def _client(server: str | None, notify: Callable[[str], None] | None = None) -> Iterator[Client]:
    from ftpy.client.client import Client

    with Client.paired(server, notify or (lambda line: click.echo(f"ftpy: {display(line)}", err=True))) as client:
        yield client


# ------------------------------------------------------------------ names


def _split(paths: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Sources and destination, as cp reads them."""
    return (list(paths), None) if len(paths) == 1 else (list(paths[:-1]), paths[-1])


def _remote_path(text: str) -> RemotePath:
    """A remote path as people type it: a slash before it or behind it means nothing more, `.` is the root."""
    trimmed = text.removeprefix("/").removesuffix("/")
    return RemotePath.parse("" if trimmed == "." else trimmed)


def _is_remote_folder(client: Client, dest: str | None, sources: int) -> bool:
    """Whether the files go into DEST under their own names."""
    if dest is None or dest.endswith("/") or sources > 1 or _remote_path(dest) == RemotePath():
        return True
    try:
        return client.stat(_remote_path(dest)).type == "directory"
    except (NotFound, PermissionDenied):  # who may only put cannot look: DEST is the file's name
        return False


def _remote_target(source: str, dest: str | None, folder: bool) -> RemotePath:
    base = _remote_path(dest or "")
    return base / os.path.basename(os.path.normpath(source)) if folder else base


def _local_target(remote: RemotePath, dest: str | None, sources: int) -> str:
    """The file on this side; a server's name is one legal component, and on Windows legal there, too."""
    if os.name == "nt":
        check_portable(RemotePath((remote.name,)))
    if dest is None:
        return remote.name
    if os.path.isdir(dest) or dest.endswith(("/", os.sep)):
        return os.path.join(dest, remote.name)
    if sources > 1:
        raise click.UsageError(f"{display(dest)} is not a folder")
    return dest


# ------------------------------------------------------------------ listings


def _listing(client: Client, where: RemotePath, recursive: bool) -> Iterator[FileInfo]:
    """A folder's entries, or the one file that ``where`` names, as ls does it."""
    try:
        yield from client.ls(where, recursive=recursive)
    except NotADirectory:
        yield client.stat(where)


def _with_digest(client: Client, info: FileInfo) -> FileInfo:
    if info.type != "file" or info.md5 is not None:
        return info
    import dataclasses

    return dataclasses.replace(info, md5=client.digest(info.path, "md5").hex)


def _print_info(info: FileInfo, where: RemotePath, *, long: bool, digest: bool, as_json: bool) -> None:
    if as_json:
        _print_json(_fields(info))
        return
    name = "/".join(info.path.parts[len(where.parts) :]) or info.path.name
    columns = []
    if long:
        import stat as modes
        import time

        kind = {"directory": modes.S_IFDIR, "symlink": modes.S_IFLNK, "file": modes.S_IFREG}.get(info.type, 0)
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.mtime_ns / 1e9))
        columns += [modes.filemode(kind | info.mode), f"{info.size:>14,}", moment]
    if digest:
        columns.append(info.md5 or "-" * 32)
    click.echo("  ".join([*columns, display(name) + ("/" if info.type == "directory" else "")]))


def _fields(info: FileInfo) -> dict[str, object]:
    fields: dict[str, object] = {
        "path": str(info.path),
        "type": info.type,
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "mode": f"{info.mode:04o}",
    }
    fields |= {key: value for key in ("etag", "md5", "blake3") if (value := getattr(info, key)) is not None}
    return fields


def _print_json(fields: dict[str, object], *, to_stderr: bool = False) -> None:
    import json

    click.echo(json.dumps(fields), err=to_stderr)


def main() -> None:
    """The ``ftpy`` command."""
    run_main(cast(click.Command, ftpy), "ftpy")
