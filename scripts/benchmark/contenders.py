"""Who takes part: how each server is started and its client called, the contenders, and the aims."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.sites import START_SECONDS, Site


def rsync_server(site: Site) -> list[str]:
    """An rsync daemon with one writable module."""
    settings = f"""
        use chroot = no
        address = 127.0.0.1
        reverse lookup = no
        {f"uid = {os.getuid()}" if os.getuid() == 0 else ""}
        {f"gid = {os.getgid()}" if os.getuid() == 0 else ""}
        [bench]
        path = {site.files}
        read only = no
    """
    (site.folder / "rsyncd.conf").write_text("\n".join(line.strip() for line in settings.splitlines()))
    config = f"--config={site.folder / 'rsyncd.conf'}"
    return [site.programs["rsync"], "--daemon", "--no-detach", config, f"--port={site.port}", "--log-file=/dev/stderr"]


def rsync_client(site: Site, verb: str, options: Sequence[str], local: Path, name: str) -> list[str]:
    """``-W``: the whole file, no search for what both sides have."""
    pair = [str(local), f"rsync://127.0.0.1:{site.port}/bench/{name}"]
    return [site.programs["rsync"], "-W", *options, *(pair if verb == "put" else reversed(pair))]


def sshd_server(site: Site) -> list[str]:
    """An sshd with a host key and one authorized key of its own; the user's ~/.ssh is neither read nor written."""
    keygen = [site.programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]
    for key in ("host_key", "user_key"):
        site.run(*keygen, str(site.folder / key))
    host_key = (site.folder / "host_key.pub").read_text()
    (site.folder / "known_hosts").write_text(f"[127.0.0.1]:{site.port} {host_key}")
    settings = {
        "ListenAddress": f"127.0.0.1:{site.port}",
        "HostKey": site.folder / "host_key",
        "AuthorizedKeysFile": site.folder / "user_key.pub",
        "AuthenticationMethods": "publickey",
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",  # the temporary folder lies below one that all may write to
        "UsePAM": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    config = site.folder / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return [site.programs["sshd"], "-D", "-e", "-f", str(config)]


def sshd_lacking(argv: Sequence[str]) -> str | None:
    """The folder that root's sshd wants and that only the system's own service makes; None where it is there."""
    said = subprocess.run([*argv, "-t"], capture_output=True, text=True, timeout=START_SECONDS, check=False).stderr
    missing = re.search(r"Missing privilege separation directory: (\S+)", said)
    return missing[1] if missing else None


def scp_client(site: Site, verb: str, options: Sequence[str], local: Path, name: str) -> list[str]:
    """scp with OpenSSH's defaults, whatever the system's and the user's settings say."""
    settings = {
        "IdentityFile": site.folder / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": site.folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "Port": site.port,
    }
    flags = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    pair = [str(local), f"{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1:{site.files / name}"]
    return [site.programs["scp"], "-q", "-F", "none", *flags, *options, *(pair if verb == "put" else reversed(pair))]


def ftpy_server(site: Site, *options: str) -> list[str]:
    """A server made by ``ftpy-server init``; the token is kept for the pairing."""
    host = site.folder / "host"
    listen = ["--listen", f"127.0.0.1:{site.port}", "--user", "bench", "--root", str(site.files)]
    token = site.run(site.programs["ftpy-server"], "init", str(host), *listen, *options)
    (site.folder / "token").write_text(token)
    return [site.programs["ftpy-server"], "run", "-c", str(host / "server.toml")]


def ftpy_plain_server(site: Site) -> list[str]:
    """The same without TLS."""
    return ftpy_server(site, "--plaintext")


def ftpy_pair(site: Site) -> None:
    """Pair the client, once the server is there."""
    site.run(site.programs["ftpy"], "pair", "bench", text=(site.folder / "token").read_text())


def ftpy_client(site: Site, verb: str, options: Sequence[str], local: Path, name: str) -> list[str]:
    """put and get as a script would use them."""
    pair = [str(local), name] if verb == "put" else [name, str(local)]
    return [site.programs["ftpy"], verb, "-q", *options, *pair]


@dataclass(frozen=True)
class Kind:
    """A kind of server, and how it is used.

    ``server`` writes its settings into the site and gives its command; ``client`` gives the command that moves a local
    path to or from a name on the server; ``lacking`` names a folder to make for the while that the server runs, if any;
    ``pair`` is called once the server accepts connections.
    """

    programs: tuple[str, ...]
    server: Callable[[Site], list[str]]
    client: Callable[[Site, str, Sequence[str], Path, str], list[str]]
    lacking: Callable[[Sequence[str]], str | None] = lambda _: None
    pair: Callable[[Site], None] = lambda _: None


KINDS = {
    "ftpy": Kind(("ftpy", "ftpy-server"), ftpy_plain_server, ftpy_client, pair=ftpy_pair),
    "ftpy-tls": Kind(("ftpy", "ftpy-server"), ftpy_server, ftpy_client, pair=ftpy_pair),
    "rsync": Kind(("rsync",), rsync_server, rsync_client),
    "sshd": Kind(("sshd", "scp", "ssh-keygen"), sshd_server, scp_client, sshd_lacking),
}


@dataclass(frozen=True)
class Contender:
    """A row of the table: a kind of server, and what its client is told besides."""

    kind: str
    options: tuple[str, ...] = ()


CONTENDERS = {
    "ftpy-md5": Contender("ftpy", ("--digest", "md5")),
    "rsync-md5": Contender("rsync", ("--checksum-choice=md5",)),  # names the transfer's checksum, too
    "ftpy-blake3": Contender("ftpy", ("--digest", "blake3")),
    "rsync": Contender("rsync"),
    "ftpy-tls-md5": Contender("ftpy-tls", ("--digest", "md5")),
    "ftpy-tls-blake3": Contender("ftpy-tls", ("--digest", "blake3")),
    "scp": Contender("sshd"),
}


@dataclass(frozen=True)
class Aim:
    """``contender`` takes at most ``most`` of the time of ``rival``, in every verb."""

    contender: str
    rival: str
    most: float


AIMS = (
    Aim("ftpy-md5", "rsync-md5", 0.95),
    Aim("ftpy-blake3", "rsync", 0.85),
    Aim("ftpy-tls-md5", "scp", 1.0),
    Aim("ftpy-tls-blake3", "scp", 0.6),
)
