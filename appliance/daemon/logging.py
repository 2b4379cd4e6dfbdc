"""Logging: structlog events on standard error, for people on a terminal and as JSON lines under systemd or in a pipe.

A log that cannot be written, because its pipe is closed or its disk is full, loses lines and stops nothing. What
libraries say through the standard library's logging becomes an event too. Control characters in what others wrote are
escaped.

A value that is not plain (text, number, id, path, or a list of those) is shown as its type alone, and bytes as their
length, so that no key, seed or token can reach a log by accident.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath
from typing import Literal, TextIO, cast

from appliance.core.ids import Id
from appliance.core.printable import printable
from appliance.daemon import events


def _import_structlog_alone() -> None:
    """structlog imports rich wherever it is installed, 7 MiB that a daemon never uses: hide it meanwhile."""
    hide = "rich" not in sys.modules and "structlog" not in sys.modules
    if hide:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        import structlog  # noqa: F401
    finally:
        if hide:
            del sys.modules["rich"]


_import_structlog_alone()

import structlog  # noqa: E402 - must follow the call above

Format = Literal["auto", "human", "json"]
EventDict = MutableMapping[str, object]


class _Sink:
    """Standard error as far as it can be written."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except (OSError, ValueError):  # ValueError: it is closed
            pass

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


class _Libraries(logging.Handler):
    """Messages of libraries, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        log: structlog.stdlib.BoundLogger = structlog.get_logger("library")
        log.log(record.levelno, events.LIBRARY, library=record.name, text=record.getMessage(), exc_info=record.exc_info)


def configure(level: str, form: Format, env: Mapping[str, str]) -> None:
    """Set up structlog for this process; `auto` looks at the terminal and at `$JOURNAL_STREAM` (systemd.exec(5))."""
    human = form == "human" or (form == "auto" and sys.stderr.isatty() and "JOURNAL_STREAM" not in env)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
            structlog.processors.format_exc_info,
            _plain,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Sink())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    logging.captureWarnings(True)  # noqa: FBT003 - the signature of logging


def _plain(_logger: object, _method: str, event: MutableMapping[str, object]) -> Mapping[str, object]:
    return {key: _traceback(value) if key == "exception" else plain(value) for key, value in event.items()}


def _traceback(value: object) -> str:
    return printable(str(value), keep="\n\t")


def plain(value: object) -> object:
    """A value as it may be logged; what is not plain loses its content."""
    match value:
        case str():
            return printable(value)
        case None | bool() | int() | float():
            return value
        case Id() | PurePath():
            return printable(str(value))
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case Exception():
            return printable(str(value))
        case _:
            return f"<{type(value).__name__}>"
