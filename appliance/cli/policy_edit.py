"""Editing a text in the person's own editor until it is taken, or given up; what was typed is never lost."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from appliance.cli.problem import RemoteError, further
from appliance.core.errors import X0tError, error

FALLBACK = "sensible-editor"  # Debian's choice of the administrator


def edit_text(text: str, attempt: Callable[[str], None], talk: Callable[[str], None]) -> bool:
    """Let a person change `text`; `attempt` takes it or raises. False if it was left as it was.

    After an error the editor opens again with what was typed, if somebody is there to say so; the draft stays on disk.
    """
    descriptor, name = tempfile.mkstemp(prefix="x0t-policy-", suffix=".yaml")
    draft = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    while True:
        _open(draft)
        try:
            typed = _read(draft)
            if typed == text:
                draft.unlink()
                return False
            attempt(typed)
        except (X0tError, RemoteError, click.Abort) as err:
            talk(f"What you typed is in {draft}.")
            if not (sys.stdin and sys.stdin.isatty()):
                raise
            for line in (f"x0t: {err}" if str(err) else "x0t: stopped.", *further(err)):
                talk(line)
            if not click.confirm("Edit it again?", default=True, err=True):
                raise
        else:
            draft.unlink()
            return True


def _read(draft: Path) -> str:
    """What was typed. Raises `control.file`."""
    try:
        return draft.read_bytes().decode()
    except OSError as err:
        raise error("control.file", path=str(draft), reason=err.strerror or str(err)) from err
    except UnicodeDecodeError as err:
        raise error("control.file", path=str(draft), reason="it is not UTF-8") from err


def _open(draft: Path) -> None:
    """Run the editor and wait. Raises `control.editor`."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or FALLBACK
    try:
        done = subprocess.run([*shlex.split(editor), str(draft)], check=False)
    except (OSError, ValueError) as err:
        raise error("control.editor", editor=editor, reason=str(err), path=str(draft)) from err
    if done.returncode != 0:
        raise error("control.editor", editor=editor, reason=f"it ended with code {done.returncode}", path=str(draft))
