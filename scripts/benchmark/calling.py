"""How each client is called: the command that moves a file or a tree to, or from, a name on the server."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.sites import Site


@dataclass(frozen=True)
class Errand:
    """What one client run is to do: ``put`` the local path as ``name``, or ``get`` that name as the local path."""

    verb: str
    local: Path
    name: str
    tree: bool

    def pair(self, remote: str, local: str | None = None) -> list[str]:
        """Source and destination, in this order."""
        here = str(self.local) if local is None else local
        return [here, remote] if self.verb == "put" else [remote, here]


def ftpy_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """put and get as a script would use them."""
    recursive = ["-r"] if errand.tree else []
    return [site.programs["ftpy"], errand.verb, "-q", *recursive, *options, *errand.pair(errand.name)]


def rsync_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """``-W``: the whole file, no search for what both sides have. A tree with ``-a``, its content into the name."""
    address = f"rsync://127.0.0.1:{site.reach}/bench/{errand.name}"
    pair = errand.pair(f"{address}/", f"{errand.local}/") if errand.tree else errand.pair(address)
    return [site.programs["rsync"], "-W", *(["-a"] if errand.tree else []), *options, *pair]


def scp_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """scp with OpenSSH's defaults, whatever the system's and the user's settings say."""
    settings = {
        "IdentityFile": site.folder / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": site.folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "Port": site.reach,
    }
    flags = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    recursive = ["-r"] if errand.tree else []
    pair = errand.pair(f"{user_name()}@127.0.0.1:{site.files / errand.name}")
    return [site.programs["scp"], "-q", "-F", "none", *flags, *recursive, *options, *pair]


def rclone_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """rclone over sftp; it compares digests afterwards where it finds md5sum or sha1sum on the other side."""
    settings = {
        "sftp-host": "127.0.0.1",
        "sftp-port": site.reach,
        "sftp-user": user_name(),
        "sftp-key-file": site.folder / "user_key",
        "sftp-known-hosts-file": site.folder / "known_hosts",
    }
    flags = [f"--{key}={value}" for key, value in settings.items()]
    verb = "copy" if errand.tree else "copyto"
    return [site.programs["rclone"], verb, "-q", *flags, *options, *errand.pair(f":sftp:{site.files / errand.name}")]


def curl_ftp_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """curl to an FTP server, as its anonymous user."""
    return _curl(site, errand, options, "ftp")


def curl_http_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """curl to an HTTP server; a put is a PUT."""
    return _curl(site, errand, options, "http")


def _curl(site: Site, errand: Errand, options: Sequence[str], scheme: str) -> list[str]:
    way = "-T" if errand.verb == "put" else "-o"
    address = f"{scheme}://127.0.0.1:{site.reach}/{errand.name}"
    return [site.programs["curl"], "-q", "-sS", "--fail", *options, way, str(errand.local), address]


def lftp_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """lftp's mirror for a tree, as an anonymous user, without TLS; its settings are the site's, which has none."""
    source, destination = errand.pair(errand.name)
    mirror = ["mirror", *(["-R"] if errand.verb == "put" else []), *options, source, destination]
    commands = ("set ftp:ssl-allow no", f"open ftp://127.0.0.1:{site.reach}", " ".join(mirror))
    return [site.programs["lftp"], "-c", "; ".join(commands)]


def aria2_client(site: Site, errand: Errand, options: Sequence[str]) -> list[str]:
    """aria2, which only fetches: several connections for one file, space not reserved, its progress unsaid."""
    where = ["-d", str(errand.local.parent), "-o", errand.local.name]
    quiet = ["--no-conf", "-q", "--file-allocation=none", "--allow-overwrite=true"]
    return [site.programs["aria2c"], *quiet, *options, *where, f"http://127.0.0.1:{site.reach}/{errand.name}"]


def user_name() -> str:
    """Who runs this."""
    return pwd.getpwuid(os.getuid()).pw_name
