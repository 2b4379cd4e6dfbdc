"""What every command gets: the client, the output, and the --json and --yes options."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import click

from appliance.cli.client import Client
from appliance.cli.output import Output
from appliance.core.errors import error

P = ParamSpec("P")


class Session:
    """One run of one command."""

    def __init__(self, socket_path: str, *, as_json: bool) -> None:
        self.client = Client(socket_path)
        self.out = Output(as_json=as_json)


def with_session(command: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Give a command its session as first argument, and the option --json."""

    @click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document on standard output.")
    @click.pass_context
    @functools.wraps(command)
    def run(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.pop("as_json"))
        command(Session(ctx.find_object(str) or "", as_json=as_json), *args, **kwargs)

    return run


yes_option = click.option("--yes", "-y", "sure", is_flag=True, help="Do not ask.")


def confirm(question: str, *, sure: bool) -> None:
    """Ask before something that cannot be undone. Without a terminal only --yes goes on: else `control.confirm`."""
    if sure:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise error("control.confirm", question=question)
    click.confirm(question, abort=True, err=True)
