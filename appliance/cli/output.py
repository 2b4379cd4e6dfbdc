"""Output: data on standard output, talk on standard error; tables for people, one JSON document with --json.

What others wrote (a name, a note, an error of a peer) is shown with its control characters escaped.

rich is imported only when a table or a bar is really drawn, because it costs more than the rest of the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from appliance.core.errors import error
from appliance.core.printable import printable, printable_json
from appliance.core.records import Progress, Receipt

Cell = str | int | bool | tuple[str, ...]


class Output:
    """How one command speaks."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def record(self, record: msgspec.Struct, rows: Iterable[tuple[str, Cell]]) -> None:
        """One object: as JSON, or as lines of name and value."""
        if self.as_json:
            self.json(record)
            return
        shown = [(name, _text(value)) for name, value in rows]
        width = max((len(name) for name, _ in shown), default=0)
        sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in shown)

    def table(self, records: object, columns: Sequence[str], rows: Iterable[Sequence[Cell]], empty: str) -> None:
        """A list: as JSON, or as a table; `empty` is said when there is nothing."""
        if self.as_json:
            self.json(records)
            return
        shown = [[_text(cell) for cell in row] for row in rows]
        if not shown:
            self.talk(empty)
        elif sys.stdout.isatty():
            _rich_table(columns, shown)
        else:
            _plain_table(columns, shown)

    def json(self, value: object) -> None:
        """The answer as one JSON document."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        sys.stdout.buffer.write(printable_json(text).encode() + b"\n")
        sys.stdout.flush()

    def done(self, record: object, text: str) -> None:
        """What a change brought: JSON on standard output, or a sentence on standard error."""
        if self.as_json:
            self.json(record)
        else:
            self.talk(text)

    def receipt(self, receipt: Receipt, done: str) -> None:
        """A batch that was written. Raises `replica.no_effect` if an entry has none: what was asked was not done."""
        reasons = sorted({reason for reason in receipt.effects if reason})
        if self.as_json or not reasons:
            self.done(receipt, f"{done}: {receipt.batch}")
        if reasons:
            raise error("replica.no_effect", batch=receipt.batch, reason=", ".join(reasons))

    def text(self, text: str) -> None:
        """A line of data."""
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()

    def talk(self, text: str) -> None:
        """A line for the person who started the command."""
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    @contextmanager
    def progress(self) -> Iterator[Callable[[Progress], None]]:
        """A bar on a terminal; elsewhere a line whenever the stage changes."""
        if sys.stderr.isatty():
            yield from _rich_bar()
            return
        seen: set[str] = set()

        def show(line: Progress) -> None:
            if line.stage not in seen:
                seen.add(line.stage)
                self.talk(f"{line.stage} ...")

        yield show


def _text(value: Cell) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return printable(", ".join(value)) or "-"
        case int():
            return f"{value:,}"
        case str():
            return printable(value) or "-"


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """A table as lines of text, without a terminal's help."""
    return _lines(columns, [[_text(cell) for cell in row] for row in rows])


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in _lines(columns, rows))


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(column), *(len(row[i]) for row in rows)) for i, column in enumerate(columns)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what a peer wrote is never markup
    Console().print(table)


def _rich_bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda line: bars.update(task, description=line.stage, completed=line.done, total=line.total or None)
