"""Makes docs/reference/ from the code, which alone knows: errors, limits, settings and commands.

`.venv/bin/python tools/reference.py` names the pages that are stale (exit 1); `--write` renews them. The
golden tests fail while a page is stale. Nothing here imports a driver or starts anything.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from appliance.cli.main import cli
from appliance.core import limits, units
from appliance.core.errors import (
    ERRORS,
    DeniedError,
    InputError,
    IntegrityError,
    StateError,
    UnavailableError,
    X0tError,
)
from appliance.daemon import events
from appliance.daemon.config import Config

PLACE = Path(__file__).parents[1] / "docs" / "reference"
HELP_WIDTH = 100  # columns of a command's help
FAMILIES: tuple[type[X0tError], ...] = (InputError, DeniedError, StateError, UnavailableError, IntegrityError)


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join([head, "| " + " | ".join("---" for _ in rows[0]) + " |", *body]) + "\n"


def errors() -> str:
    """Every key with its family's numbers, message and hint, grouped by area."""
    parts = [
        "# Errors\n",
        "Every error has a stable key. Over HTTP it is a problem of RFC 9457 with that key; `x0t` prints the "
        "message, the key and the hint, and exits with the family's code. What stands in braces is filled "
        "in.\n",
        table(
            ("family", "meaning", "HTTP", "exit code"),
            *(
                (
                    family.__name__.removesuffix("Error"),
                    inspect.getdoc(family) or "",
                    str(family.family_status),
                    str(family.exit_code),
                )
                for family in FAMILIES
            ),
        ),
    ]
    areas: dict[str, list[tuple[str, ...]]] = {}
    for key, spec in sorted(ERRORS.items()):
        family = spec.family.__name__.removesuffix("Error")
        row = (f"`{key}`", f"{family} {spec.status}", spec.message, spec.hint)
        areas.setdefault(key.partition(".")[0], []).append(row)
    for area, rows in areas.items():
        parts.append(f"## {area}\n")
        parts.append(table(("key", "family, HTTP", "message", "what to do"), *rows))
    return "\n".join(parts)


def bounds() -> str:
    """Every field of Limits with its default and the comment beside it."""
    source = inspect.getsource(limits)
    lines = source.splitlines()
    rows = [
        (f"`{node.target.id}`", f"{getattr(limits.LIMITS, node.target.id):,}", lines[node.lineno - 1])
        for record in ast.parse(source).body
        if isinstance(record, ast.ClassDef)
        for node in record.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    explained = [(name, value, line.partition("#")[2].strip()) for name, value, line in rows]
    return "\n".join(
        [
            "# Limits\n",
            "Every queue, size, count and timeout is bounded. The table `limits` of the settings changes "
            "those that are one node's own business; the others must be equal on all nodes of a mesh.\n",
            table(("limit", "default", "unit and origin"), *explained),
        ]
    )


def settings() -> str:
    """Every setting of the daemon's file, table by table."""
    parts = [
        "# Settings of x0td\n",
        "One TOML file. Every setting has a default, so an empty file is valid; a key not listed here "
        'is refused. Durations and sizes are text with a unit: `"30s"`, `"4MiB"`.\n',
    ]
    for heading, schema in _tables("", msgspec.inspect.type_info(Config)):
        rows = [
            (f"`{field.name}`", _default(field), _description(field.type))
            for field in schema.fields
            if not list(_tables("", field.type))
        ]
        if rows:
            parts.append(f"## {heading or 'At the top'}\n")
            parts.append((inspect.getdoc(schema.cls) or "") + "\n")
            parts.append(table(("setting", "default", "meaning"), *rows))
    return "\n".join(parts)


def _tables(at: str, kind: msgspec.inspect.Type) -> Iterator[tuple[str, msgspec.inspect.StructType]]:
    """The TOML tables in a type: heading and schema, outermost first."""
    match kind:
        case msgspec.inspect.StructType():
            yield at, kind
            for field in kind.fields:
                yield from _tables(f"{at.strip('[]')}.{field.name}".lstrip("."), field.type)
        case msgspec.inspect.Metadata():
            yield from _tables(at, kind.type)
        case msgspec.inspect.VarTupleType():
            for heading, schema in _tables(at, kind.item_type):
                yield f"[[{heading}]]", schema
        case _:
            return


def _default(field: msgspec.inspect.Field) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required"
    value = getattr(limits.LIMITS, field.name, None) if field.default is None else field.default
    match _extra(field.type).get("unit"), value:
        case "duration", int():
            value = units.format_duration_ms(value * 1000)
        case "size", int():
            value = units.format_bytes(value)
        case _:
            pass
    return f"`{msgspec.json.encode(value).decode()}`"


def _extra(kind: msgspec.inspect.Type) -> dict[str, object]:
    return dict(kind.extra or {}) if isinstance(kind, msgspec.inspect.Metadata) else {}


def _description(kind: msgspec.inspect.Type) -> str:
    if not isinstance(kind, msgspec.inspect.Metadata):
        return ""
    schema = kind.extra_json_schema or {}
    values = kind.type.values if isinstance(kind.type, msgspec.inspect.LiteralType) else ()
    one_of = "One of " + ", ".join(f"`{value}`" for value in values) + "." if values else ""
    return " ".join(text for text in (str(schema.get("description", "")), one_of) if text)


def commands() -> str:
    """The help of every command."""
    parts = [
        "# Commands of x0t\n",
        "`--json` gives data for programs on standard output; talk goes to standard error.\n",
    ]
    root = click.Context(cli, info_name="x0t", terminal_width=HELP_WIDTH, help_option_names=["-h", "--help"])
    for context in _contexts(root):
        level = "#" * min(4, 2 + context.command_path.count(" "))
        parts.append(f"{level} {context.command_path}\n")
        parts.append(f"```text\n{context.get_help()}\n```\n")
    return "\n".join(parts)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _contexts(click.Context(command, parent=context, info_name=name, terminal_width=HELP_WIDTH))


def log_events() -> str:
    """Every event of the daemon's log with the comment beside its name."""
    lines = [line for line in inspect.getsource(events).splitlines() if " = " in line]
    rows = []
    for line in sorted(lines, key=lambda line: line.split('"')[1]):
        meaning, _, fields = line.partition("  # ")[2].partition("; ")
        rows.append((f"`{line.split(chr(34))[1]}`", meaning, ", ".join(f"`{f}`" for f in fields.split(", ") if f)))
    return "\n".join(
        [
            "# Events of the log\n",
            "One line each, on standard error: for people on a terminal, else as JSON. Every line has `event`, "
            "`level` and `timestamp`.\n",
            table(("event", "when", "fields"), *rows),
        ]
    )


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "errors.md": errors,
    "events.md": log_events,
    "limits.md": bounds,
    "settings.md": settings,
}


def stale() -> list[str]:
    """The pages that differ from what the code says now."""
    return [
        name
        for name, make in PAGES.items()
        if not (PLACE / name).is_file() or (PLACE / name).read_text(encoding="utf-8") != make()
    ]


def main(arguments: list[str]) -> int:
    """Names or renews the stale pages."""
    pages = stale()
    for name in pages:
        if arguments == ["--write"]:
            PLACE.mkdir(parents=True, exist_ok=True)
            (PLACE / name).write_text(PAGES[name](), encoding="utf-8")
        print("renewed" if arguments == ["--write"] else "stale", f"docs/reference/{name}")
    return 1 if pages and arguments != ["--write"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
