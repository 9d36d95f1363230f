"""How each server is started: its settings written into its site, and the command that serves them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence

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
    config = site.write("rsyncd.conf", settings)
    command = [site.programs["rsync"], "--daemon", "--no-detach", f"--config={config}"]
    return [*command, f"--port={site.port}", "--log-file=/dev/stderr"]


def sshd_server(site: Site) -> list[str]:
    """An sshd with a host key and one authorized key of its own; the user's ~/.ssh is neither read nor written."""
    keygen = [site.programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]
    for key in ("host_key", "user_key"):
        site.run(*keygen, str(site.folder / key))
    settings = f"""
        ListenAddress 127.0.0.1:{site.port}
        HostKey {site.folder / "host_key"}
        AuthorizedKeysFile {site.folder / "user_key.pub"}
        AuthenticationMethods publickey
        PermitRootLogin prohibit-password
        # The temporary folder lies below one that all may write to.
        StrictModes no
        UsePAM no
        PidFile none
        Subsystem sftp internal-sftp
    """
    return [site.programs["sshd"], "-D", "-e", "-f", site.write("sshd_config", settings)]


def sshd_lacking(argv: Sequence[str]) -> str | None:
    """The folder that root's sshd wants and that only the system's own service makes; None where it is there."""
    said = subprocess.run([*argv, "-t"], capture_output=True, text=True, timeout=START_SECONDS, check=False).stderr
    missing = re.search(r"Missing privilege separation directory: (\S+)", said)
    return missing[1] if missing else None


def sshd_pair(site: Site) -> None:
    """The host key under the port that clients will reach it at."""
    site.write("known_hosts", f"[127.0.0.1]:{site.reach} {(site.folder / 'host_key.pub').read_text()}")


def vsftpd_server(site: Site) -> list[str]:
    """vsftpd for anonymous users who may write, as whoever runs this: no root, no chroot, no accounts."""
    settings = f"""
        listen=YES
        listen_address=127.0.0.1
        listen_port={site.port}
        background=NO
        run_as_launching_user=YES
        secure_chroot_dir={site.folder}
        seccomp_sandbox=NO
        anonymous_enable=YES
        no_anon_password=YES
        anon_root={site.files}
        anon_umask=022
        anon_world_readable_only=NO
        allow_writeable_chroot=YES
        write_enable=YES
        anon_upload_enable=YES
        anon_mkdir_write_enable=YES
        anon_other_write_enable=YES
        xferlog_enable=NO
    """
    return [site.programs["vsftpd"], site.write("vsftpd.conf", settings)]


def nginx_server(site: Site) -> list[str]:
    """nginx with sendfile, and with PUT where its DAV module is built in."""
    built = subprocess.run(
        [site.programs["nginx"], "-V"], capture_output=True, text=True, timeout=START_SECONDS, check=False
    ).stderr
    temporary = "".join(
        f"{kind}_temp_path {site.folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = f"""
        daemon off;
        pid {site.folder / "nginx.pid"};
        error_log stderr;
        worker_processes 1;
        {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 256; }}
        http {{
            sendfile on;
            tcp_nopush on;
            access_log off;
            client_max_body_size 0;
            {temporary}
            server {{
                listen 127.0.0.1:{site.port};
                root {site.files};
                {"dav_methods PUT;" if "http_dav_module" in built else ""}
            }}
        }}
    """
    return [site.programs["nginx"], "-e", "stderr", "-c", site.write("nginx.conf", settings)]


def pyftpdlib_server(site: Site) -> list[str]:
    """pyftpdlib's own command line server, anonymous and writable."""
    module = [site.programs["pyftpdlib"], "-W", "ignore", "-m", "pyftpdlib"]
    return [*module, "-i", "127.0.0.1", "-p", str(site.port), "-w", "-d", str(site.files)]


def ftpy_server(site: Site, *options: str) -> list[str]:
    """A server made by ``ftpy-server init``; the token is kept for the pairing."""
    host = site.folder / "host"
    listen = ["--listen", f"127.0.0.1:{site.port}", "--user", "bench", "--root", str(site.files)]
    if os.geteuid() == 0:
        options = (*options, "--allow-root")
    token = site.run(site.programs["ftpy-server"], "init", str(host), *listen, *options)
    (site.folder / "token").write_text(token)
    config = host / "server.toml"
    if site.workers is not None:
        written, others = f"workers = {site.workers}\n", re.sub(r"(?m)^workers\s*=.*\n", "", config.read_text())
        config.write_text(written + others)  # on top: further down it would belong to a table
    return [site.programs["ftpy-server"], "run", "-c", str(config)]


def ftpy_plain_server(site: Site) -> list[str]:
    """The same without TLS."""
    return ftpy_server(site, "--plaintext")


def ftpy_pair(site: Site) -> None:
    """Pair the client, once the server is there."""
    address = ["--address", f"127.0.0.1:{site.reach}"]
    site.run(site.programs["ftpy"], "pair", "bench", *address, text=(site.folder / "token").read_text())


def no_folder(_: Sequence[str]) -> None:
    """Most servers make their folders themselves."""


def no_pairing(_: Site) -> None:
    """Most servers know nobody."""
