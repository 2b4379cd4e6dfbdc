"""x0td: read the settings, take the data directory, run until a signal, and leave with a code that says why.

Exit codes are those of `x0t`: 0 after a clean stop, 2 to 6 by family of error, 1 for what nobody foresaw.
SIGTERM and SIGINT stop cleanly within two seconds; further ones change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance.core import paths
from appliance.core.errors import X0tError
from appliance.daemon import config as settings
from appliance.daemon import logging, memory
from appliance.daemon.config import Config
from appliance.daemon.lock import DataDir
from appliance.daemon.notify import READY, STOPPING, WATCHDOG, Notifier
from appliance.daemon.software import software

if TYPE_CHECKING:
    from appliance.daemon.node import Node

UNEXPECTED = 1
EPILOG = (
    "Exit codes: 0 after a clean stop, 1 unexpected, 2 wrong input, 3 not allowed, 4 not in this state, 5 try later, "
    "6 integrity. Example: x0td --config /etc/x0t/x0td.toml"
)
WORKERS = 2  # threads for blocking calls besides the replica's writer: key files, exports


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of x0td."""
    sys.exit(start(arguments))


def start(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    _fill_standard_files()
    asked = _arguments(arguments)
    os.umask(0o077)  # nothing that this process makes is for others
    memory.bound_arenas()
    try:
        config = _settings(asked)
    except X0tError as err:
        sys.stderr.write(f"x0td: {err}\n  {err.hint}\n")
        return err.exit_code
    if asked.check:
        sys.stderr.write("x0td: the settings are valid\n")
        return 0
    logging.configure(config.log.level, config.log.format, os.environ)
    import structlog

    from appliance.daemon import events

    log: structlog.stdlib.BoundLogger = structlog.get_logger("main")
    try:
        with DataDir(Path(config.data_dir)):
            asyncio.run(_run(config))
    except X0tError as err:
        log.error(events.DAEMON_FAILED, error=str(err), hint=err.hint)
        return err.exit_code
    except Exception:
        log.critical(events.DAEMON_FAILED, exc_info=True)
        return UNEXPECTED
    return 0


def _fill_standard_files() -> None:
    """Open the standard files that the parent left closed: else a database gets the number that C code complains to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


async def _run(config: Config) -> None:
    """Open everything, serve until a signal, close everything."""
    import structlog

    from appliance.daemon import events
    from appliance.daemon.wiring import build_node

    log: structlog.stdlib.BoundLogger = structlog.get_logger("main")
    notifier = Notifier(os.environ)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(WORKERS, thread_name_prefix="x0td"))
    gc.disable()  # all that a start makes is kept
    node, server = await build_node(config)
    asked_at_s = _stop_on_signals(node, notifier, loop)

    def ready() -> None:
        gc.freeze()  # what was built so far lives as long as the process: the collector need not look at it again
        gc.enable()
        notifier.send(READY, f"STATUS={node.summary()}")
        log.info(events.DAEMON_STARTED, node=node.key.id, version=software(), data_dir=config.data_dir)

    async def feed() -> None:
        notifier.send(*([WATCHDOG] if node.supervisor.is_healthy() else []), f"STATUS={node.summary()}")

    try:
        await node.run(server, ready, feed, notifier.watchdog_period_s or 10.0)
    finally:
        await node.close()
        took_s = round(time.monotonic() - asked_at_s[0], 3) if asked_at_s else 0.0
        log.info(events.DAEMON_STOPPED, seconds=took_s)


def _stop_on_signals(node: Node, notifier: Notifier, loop: asyncio.AbstractEventLoop) -> list[float]:
    """Ask the node to stop on the first signal. Plain handlers, because those of the loop are gone before the end."""
    import structlog

    from appliance.daemon import events

    log: structlog.stdlib.BoundLogger = structlog.get_logger("main")
    asked_at_s: list[float] = []

    def stop(number: int) -> None:
        if not asked_at_s:
            asked_at_s.append(time.monotonic())
            log.info(events.DAEMON_STOPPING, signal=signal.Signals(number).name)
            notifier.send(STOPPING)
            node.stop()

    def on_signal(number: int, _frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop, number)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return asked_at_s


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="x0td", description="The x0tta6bl4 daemon.", epilog=EPILOG)
    config = os.environ.get("X0T_CONFIG")
    parser.add_argument("--config", metavar="FILE", default=config, help="settings file (TOML); also $X0T_CONFIG")
    parser.add_argument("--data-dir", metavar="DIR", help="overrides data_dir")
    parser.add_argument("--socket", metavar="PATH", help="overrides control.socket, which overrides $X0T_SOCKET")
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument("--version", action="version", version=f"x0td {software()}")
    return parser.parse_args(arguments)


def _settings(asked: argparse.Namespace) -> Config:
    """Settings with the command line's and the environment's answers filled in."""
    uid = os.geteuid()
    file = asked.config or paths.config_file(os.environ, uid)
    config = settings.load(Path(file), required=asked.config is not None)
    socket = asked.socket or config.control.socket or os.environ.get("X0T_SOCKET")
    return msgspec.structs.replace(
        config,
        data_dir=str(Path(asked.data_dir or config.data_dir or paths.data_dir(os.environ, uid)).absolute()),
        control=settings.ControlSettings(socket=str(socket or paths.control_socket(os.environ, uid))),
    )
