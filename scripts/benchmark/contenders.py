"""Who takes part: the kinds of servers, the clients, and the contenders made of both."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmark import calling, launching
from benchmark.calling import Errand
from benchmark.sites import START_SECONDS, Site

VERBS = ("put", "get")


@dataclass(frozen=True)
class Kind:
    """A kind of server.

    ``server`` writes its settings into the site and gives its command; ``lacking`` names a folder to make for the while
    that the server runs, if any; ``pair`` is called once the server accepts connections.
    """

    programs: tuple[str, ...]
    server: Callable[[Site], list[str]]
    lacking: Callable[[Sequence[str]], str | None] = launching.no_folder
    pair: Callable[[Site], None] = launching.no_pairing


KINDS = {
    "ftpy": Kind(("ftpy", "ftpy-server"), launching.ftpy_plain_server, pair=launching.ftpy_pair),
    "ftpy-tls": Kind(("ftpy", "ftpy-server"), launching.ftpy_server, pair=launching.ftpy_pair),
    "rsync": Kind(("rsync",), launching.rsync_server),
    "sshd": Kind(("sshd", "ssh-keygen"), launching.sshd_server, launching.sshd_lacking, launching.sshd_pair),
    "vsftpd": Kind(("vsftpd",), launching.vsftpd_server),
    "nginx": Kind(("nginx",), launching.nginx_server),
    "pyftpdlib": Kind(("pyftpdlib",), launching.pyftpdlib_server),
}


@dataclass(frozen=True)
class Client:
    """A client: its program, how it is called, and what to ask for the options that it knows (nothing: not asked)."""

    program: str
    call: Callable[[Site, Errand, Sequence[str]], list[str]]
    help: tuple[str, ...] = ()


CLIENTS = {
    "ftpy": Client("ftpy", calling.ftpy_client, ("put", "--help")),
    "rsync": Client("rsync", calling.rsync_client, ("--help",)),
    "scp": Client("scp", calling.scp_client),
    "rclone": Client("rclone", calling.rclone_client),
    "curl-ftp": Client("curl", calling.curl_ftp_client),
    "curl-http": Client("curl", calling.curl_http_client),
    "lftp": Client("lftp", calling.lftp_client),
    "aria2": Client("aria2c", calling.aria2_client),
}


@dataclass(frozen=True)
class Contender:
    """A row of the table: a kind of server, a client, what that is told besides, and what it can do.

    ``verifies``: whether it compares digests of the whole file on both ends. ``label`` is its name in the chart.
    """

    label: str
    kind: str
    client: str
    options: tuple[str, ...] = ()
    verifies: bool = False
    verbs: tuple[str, ...] = VERBS

    @property
    def programs(self) -> tuple[str, ...]:
        """What must be installed."""
        return (*KINDS[self.kind].programs, CLIENTS[self.client].program)

    @property
    def ours(self) -> bool:
        """Whether it is ftpy."""
        return self.client == "ftpy"

    def unfit(self, verbs: Sequence[str], programs: Mapping[str, str]) -> str | None:
        """Why it cannot take part, for want of a program, a verb or an option; None where it can."""
        client = CLIENTS[self.client]
        if missing := [program for program in self.programs if program not in programs]:
            return f"not installed: {', '.join(missing)}"
        if not set(verbs) & set(self.verbs):
            return f"can only {', '.join(self.verbs)}"
        known = _help(programs[client.program], *client.help) if client.help else None
        for option in (option.partition("=")[0] for option in self.options if option.startswith("-")):
            if known is not None and not re.search(rf"(?<!\S){option}(?![\w-])", known):
                return f"this {client.program} has no {option}"
        return None


def _help(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS, check=False).stdout


CONTENDERS = {
    "ftpy-md5": Contender("ftpy md5", "ftpy", "ftpy", ("--digest", "md5"), True),
    "ftpy-md5-one": Contender("ftpy md5, 1 stream", "ftpy", "ftpy", ("--digest", "md5", "--streams", "1"), True),
    # --checksum-choice names the transfer's digest, too.
    "rsync-md5": Contender("rsync md5", "rsync", "rsync", ("--checksum-choice=md5",), True),
    "ftpy-blake3": Contender("ftpy blake3", "ftpy", "ftpy", ("--digest", "blake3"), True),
    "rsync": Contender("rsync", "rsync", "rsync", (), True),
    "rsync-fsync": Contender("rsync --fsync", "rsync", "rsync", ("--fsync",), True),
    "ftpy-tls-md5": Contender("ftpy TLS md5", "ftpy-tls", "ftpy", ("--digest", "md5"), True),
    "ftpy-tls-blake3": Contender("ftpy TLS blake3", "ftpy-tls", "ftpy", ("--digest", "blake3"), True),
    "scp": Contender("scp", "sshd", "scp"),
    "rclone": Contender("rclone sftp", "sshd", "rclone", (), True),
    "vsftpd": Contender("curl, vsftpd", "vsftpd", "curl-ftp"),
    "pyftpdlib": Contender("curl, pyftpdlib", "pyftpdlib", "curl-ftp"),
    "nginx": Contender("curl, nginx", "nginx", "curl-http"),
    "lftp": Contender("lftp, vsftpd", "vsftpd", "lftp"),
    "aria2": Contender("aria2, nginx", "nginx", "aria2", ("-x16", "-s16"), verbs=("get",)),
}
