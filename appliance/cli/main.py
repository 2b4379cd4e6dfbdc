"""x0t: the root of the command tree. Nouns are loaded when they are used, so that --help answers at once.

Exit codes: 0 done, 1 unexpected, 2 wrong input, 3 not allowed, 4 not possible in this state, 5 not available (try
later), 6 integrity (stop), 130 interrupted, or answered with no. An error is one message and one hint, never a
traceback; X0T_DEBUG=1 shows it.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from appliance.cli.problem import RemoteError, further
from appliance.core import paths
from appliance.core.errors import X0tError, error
from appliance.core.printable import printable

NOUNS = {  # noun: (module, what it says of itself)
    "author": ("author", "Decide on authors whose log forked."),
    "join": ("join", "Ask a mesh to admit this node, with a token."),
    "key": ("key", "This node's identity."),
    "link": ("link", "Links to peers; cut the node off and join it again."),
    "mesh": ("mesh", "Create, join and show the mesh."),
    "net": ("net", "The mesh network of this node, and tools for a bad day."),
    "node": ("node", "The nodes that the mesh knows, and their names."),
    "policy": ("policy", "Who may talk to whom."),
    "replica": ("replica", "The log, the read model, and what is in them."),
    "role": ("role", "Who may do what: grants and revocations."),
    "tag": ("tag", "Tags of nodes."),
    "token": ("token", "Tokens, which admit nodes."),
}
UNEXPECTED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it; also for a no to a question


class _Nouns(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in NOUNS:
            return None
        command = getattr(importlib.import_module(f"appliance.cli.{NOUNS[cmd_name][0]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(noun, text) for noun, (_, text) in sorted(NOUNS.items())])


@click.group(
    cls=_Nouns,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 unexpected, 2 wrong input, 3 not allowed, 4 not in this state, 5 try later, "
    "6 integrity, 130 interrupted. Example: x0t replica status",
)
@click.option("--socket", "socket_path", envvar="X0T_SOCKET", metavar="PATH", help="Control socket of the daemon.")
@click.version_option(package_name="x0tta6bl4", prog_name="x0t")
@click.pass_context
def cli(ctx: click.Context, socket_path: str | None) -> None:
    """Control the x0tta6bl4 daemon of this machine."""
    ctx.obj = socket_path or paths.control_socket(os.environ, os.geteuid())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    _prepare_output()
    try:
        code = run(arguments)
        sys.stdout.flush()  # here, where a full disk can still be said
    except BrokenPipeError:
        code = _leave_pipe()
    except OSError as err:
        code = _refuse(error("control.file", path=err.filename or "standard output", reason=err.strerror or err))
    except Exception as err:
        if os.environ.get("X0T_DEBUG"):
            raise
        say(f"x0t: unexpected: {type(err).__name__}: {err}", "Run it again with X0T_DEBUG=1 and report the traceback.")
        code = UNEXPECTED
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and raises only what nobody foresaw."""
    try:
        result = cli.main(args=arguments, prog_name="x0t", standalone_mode=False)
    except (X0tError, RemoteError) as err:
        return _refuse(err)
    except UnicodeEncodeError:  # an argument in another encoding than that of the locale
        return _refuse(error("control.request", reason="an argument is no text in the encoding of the locale"))
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("x0t: stopped.", "")
        return INTERRUPTED
    except BrokenPipeError:
        return _leave_pipe()
    return result if isinstance(result, int) else 0


def say(message: str, hint: str) -> None:
    """An error on standard error, which may quote what a peer or a file said."""
    sys.stderr.write(printable(message) + "\n" + (f"  {printable(hint)}\n" if hint else ""))


def _refuse(err: X0tError | RemoteError) -> int:
    if os.environ.get("X0T_DEBUG"):
        raise err
    say(f"x0t: {err}", err.hint)
    for text in further(err):
        say(f"  also {text}", "")
    return err.exit_code


def _leave_pipe() -> int:
    sys.stdout = _nowhere()  # or the interpreter flushes into the pipe again
    return UNEXPECTED


def _prepare_output() -> None:
    """Write what the locale cannot as an escape; and nowhere if the shell closed the output."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it stays open until the end
