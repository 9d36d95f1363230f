"""``ftpy completion`` and ``ftpy-server completion``: what teaches a shell to complete the command."""

from __future__ import annotations

import click

from ftpy.cli.common import EPILOG

SHELLS = ("bash", "zsh", "fish")


def completion_of(name: str) -> click.Command:
    """The command ``completion`` of the command ``name``."""

    @click.command(help=_HELP.replace("NAME", name), epilog=EPILOG)
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(ctx: click.Context, *, shell: str) -> None:
        from ftpy.cli.completing import script

        click.echo(script(ctx.find_root().command, name, shell), nl=False)

    return completion


_HELP = """Print what teaches a shell to complete NAME with Tab: commands, options, and names as far as they are known.

What is on a server is asked for when Tab is pressed, for two seconds at most; where it cannot be had, nothing is
completed, and nothing is said.

\b
Put one of these lines where the shell reads it when it starts:
  bash (4.4 or later), ~/.bashrc:
    eval "$(NAME completion bash)"
  zsh, ~/.zshrc, behind compinit:
    eval "$(NAME completion zsh)"
  fish, once:
    NAME completion fish > ~/.config/fish/completions/NAME.fish

\b
Or keep the script, and start quicker:
    NAME completion bash > ~/.local/share/bash-completion/completions/NAME
"""
