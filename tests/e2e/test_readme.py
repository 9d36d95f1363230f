"""What the README shows of the library, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from ftpy.config.client import save_profile
from ftpy.config.commands import Command
from tests.rig import running

README = Path(__file__).parents[2] / "README.md"
HERE = {"big.iso": "big", "new.iso": "new", "photos/a/b.jpg": "picture", "build/index.html": "new page"}
THERE = {"images/old/c.iso": "old", "www/site/index.html": "old page", "logs/d/e.gz": "four", "app.log": "1\n2\n"}


def test_readme_shows_python_that_runs(tmp_path, monkeypatch, capsys):
    block = re.search(r"## In Python\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    (tmp_path / "got").mkdir()
    commands = {"sort": Command(run=("sort",), args=("-r",), users=("alice",), stdin=True)}
    with running(tmp_path / "host", commands=commands) as host:
        for folder, files in ((tmp_path, HERE), (host.root, THERE)):
            for name, text in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)
        save_profile(tmp_path / "client.toml", "home", host.profile())
        monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "client.toml"))
        monkeypatch.chdir(tmp_path)
        exec(block[1].replace("/tmp/", f"{tmp_path}/got/"), {})
    said = capsys.readouterr().out
    assert "[4] b'1\\n2\\n'\n" in said and "stdout b\na\n" in said and "0 exit\n" in said
    assert said.endswith("kept: images/bigger.iso: something is already there\n")
