"""A workstation for tests: a folder, a config, and ``ftpy`` as a process of its own."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ftpy.wire.token import PairingToken
from tests.rig import ENVIRONMENT, Host

MIB = 1024 * 1024
COMMAND = [sys.executable, "-c", "from ftpy.cli.main import main; main()"]


class Desk:
    """A workstation: a folder to work in, a config, and the command."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host = folder, host
        self.folder.mkdir()
        self.config = folder.parent / f"{folder.name}-config" / "config.toml"

    def environment(self, **more: str) -> dict[str, str]:
        return ENVIRONMENT | {"FTPY_CONFIG": str(self.config), "PYTHONUNBUFFERED": ""} | more

    def token(self, user: str = "alice", **changes: Any) -> str:
        profile = self.host.profile(user)
        fields = {
            "addresses": profile.addresses,
            "user": user,
            "key": profile.key,
            "certificate_sha256": profile.certificate_sha256,
        }
        return PairingToken(**(fields | changes)).to_text()

    def pair(self, name: str = "home", user: str = "alice", **changes: Any) -> None:
        """Store a profile, without a connection to prove it."""
        from ftpy.config.client import Profile, save_profile

        token = PairingToken.from_text(self.token(user, **changes))
        profile = Profile(
            addresses=token.addresses,
            user=user,
            key=token.key,
            certificate_sha256=token.certificate_sha256,
        )
        save_profile(self.config, name, profile)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment(**options.pop("env", {})),
            **options,
        )

    def __call__(self, *arguments: str, input: str | bytes | None = None, **env: str) -> Ended:
        """Run ``ftpy`` and wait for its end."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=input.encode() if isinstance(input, str) else input or b"",
            capture_output=True,
            cwd=self.folder,
            env=self.environment(**env),
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def make(self, name: str, size: int = 5, seed: int = 0) -> bytes:
        data = (hashlib.shake_128(bytes([seed])).digest(min(size, 65521)) * (size // 65521 + 1))[:size]
        (self.folder / name).write_bytes(data)
        return data


class Ended:
    """How a command ended."""

    def __init__(self, code: int, raw: bytes, err: str) -> None:
        self.code, self.raw, self.err = code, raw, err
        self.out = raw.decode("utf-8", "replace")
        assert "Traceback" not in err

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def failed(self, code: int, said: str) -> None:
        """It ended with ``code``, one line on standard error, nothing on standard output."""
        assert (self.code, self.out, self.err.count("\n")) == (code, "", 1), (self.code, self.out, self.err)
        assert self.err.startswith("ftpy: ") and re.search(said, self.err), self.err
        assert self.err[:-1].isprintable()

    def __repr__(self) -> str:
        return f"{self.code} {self.out!r} {self.err!r}"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".ftpy" not in path.parts
    }
