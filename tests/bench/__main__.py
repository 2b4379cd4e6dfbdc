"""`./test bench NAME`: runs tests/bench/bench_NAME.py and prints its rows as a table or as JSON lines.

A benchmark is a module with `run(arguments: list[str]) -> list[Row]` or `run() -> list[Row]`. A missed reach
is a finding and not an error: the exit status is 1 only when the benchmark itself fails.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.rows import Row

HERE = Path(__file__).parent
PREFIX = "bench_"


def benchmarks() -> dict[str, str]:
    """The benchmarks there are: name to module, in which a hyphen is an underscore."""
    found = sorted(path.stem for path in HERE.glob(f"{PREFIX}*.py"))
    return {stem.removeprefix(PREFIX).replace("_", "-"): f"tests.bench.{stem}" for stem in found}


def measure(module: ModuleType, arguments: list[str]) -> list[Row]:
    """Calls the module's `run`, with the arguments if it takes any."""
    run: Callable[..., list[Row]] = module.run
    if inspect.signature(run).parameters:
        return run(arguments)
    if arguments:
        raise SystemExit(f"{module.__name__} takes no arguments: {' '.join(arguments)}")
    return run()


def number(value: float | None) -> str:
    """Four significant digits at least, with thousands set apart; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(name: str, rows: list[Row]) -> Table:
    """The rows for a person."""
    result = Table(title=f"bench {name}")
    result.add_column("what")
    for heading in ("value", "unit", "peer", "ratio"):
        result.add_column(heading, justify="left" if heading == "unit" else "right")
    result.add_column("reach")
    result.add_column("holds")
    verdicts = {True: "yes", False: "NO", None: ""}
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        result.add_row(row.name, number(row.value), row.unit, number(row.peer), ratio, row.reach, verdicts[row.holds])
    return result


def main(arguments: list[str]) -> int:
    """Finds the benchmark, runs it, prints its rows."""
    known = benchmarks()
    as_json = "--json" in arguments
    name, *rest = [argument for argument in arguments if argument != "--json"] or [""]
    if name not in known:
        print("benchmarks:", ", ".join(known) or "none yet", file=sys.stderr if name else sys.stdout)
        return 2 if name else 0
    rows = measure(importlib.import_module(known[name]), rest)
    if as_json:
        print("\n".join(msgspec.json.encode(row).decode() for row in rows))
    else:
        width = None if sys.stdout.isatty() else 140  # a log has room for the whole table
        Console(width=width).print(table(name, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
