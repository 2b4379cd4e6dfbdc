"""What all routes share: reading a request into a record, answering with one, and streams of JSON lines.

A stream (application/x-ndjson) is a run of `Progress` lines that ends with one `result` or one `error`; a reader that
sees neither knows that the answer was cut short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from appliance.core.errors import X0tError, error
from appliance.core.records import Progress
from appliance.daemon import events
from appliance.daemon.control.server import REQUEST_ID

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Awaitable[web.StreamResponse]])
Report = Callable[[str, int, int], None]  # stage, done, total (0 where it is not known)
REPORT_EVERY_S = 0.1
READER_S = 60.0  # for a reader to take a line; one that takes none for so long counts as gone

_log: structlog.stdlib.BoundLogger = structlog.get_logger("control")


async def read(request: web.Request, schema: type[T]) -> T:
    """The body as a record; a body that does not fit is answered with `control.request`."""
    return msgspec.json.decode(await request.read(), type=schema)


def query(request: web.Request, schema: type[T]) -> T:
    """The query string as a record: numbers are written as text there."""
    return msgspec.convert(dict(request.query), schema, strict=False)


def reply(record: object, status: int = 200, location: str = "") -> web.Response:
    """A record as JSON; 201 names the place of what was made."""
    headers = {"Location": location} if location else None
    return web.Response(
        status=status, body=msgspec.json.encode(record), content_type="application/json", headers=headers
    )


def streaming(handler: H) -> H:
    """Mark a handler whose answer is a stream, so that the time limit of one request does not end it."""
    handler.streams = True  # type: ignore[attr-defined]  # read by the error layer
    return handler


class Lines:
    """Writes one JSON line a record to a response that stays open."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})

    async def __aenter__(self) -> Lines:
        await self._response.prepare(self._request)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        try:
            await self._response.write_eof()
        except ConnectionError:
            pass  # the reader left

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns."""
        return self._response

    async def write(self, record: object) -> None:
        """Send one line; waits while the reader is slow, within bounds. ConnectionError when it is gone."""
        try:
            async with asyncio.timeout(READER_S):
                await self._response.write(msgspec.json.encode(record) + b"\n")
        except TimeoutError as err:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the reader reads no more") from err


async def stream_work(request: web.Request, work: Callable[[Report], Awaitable[object]]) -> web.StreamResponse:
    """Run long work and send its progress, at most ten lines a second, then its result or its error."""
    latest: list[Progress] = []
    moved = asyncio.Event()

    def report(stage: str, done: int, total: int) -> None:
        latest[:] = [Progress(stage=stage, done=done, total=total)]
        moved.set()

    async def send_progress() -> None:
        while True:
            await moved.wait()
            moved.clear()
            await lines.write(latest[0])
            await asyncio.sleep(REPORT_EVERY_S)

    async with Lines(request) as lines:
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(send_progress())
                result = await work(report)
                sender.cancel()
            await lines.write({"event": "result", "result": result})
        except* X0tError as failed:
            await lines.write(_failure(failed.exceptions[0], request))
        except* ConnectionError:
            pass  # the reader left; the work was cancelled with it
        except* Exception:
            _log.exception(events.CONTROL_FAILED, request=request[REQUEST_ID], path=request.path)
            await lines.write(_failure(error("control.failed", request=request[REQUEST_ID]), request))
    return lines.response


def _failure(err: BaseException, request: web.Request) -> dict[str, object]:
    known = err if isinstance(err, X0tError) else error("control.failed", request=request[REQUEST_ID])
    return {"event": "error", "problem": known.problem() | {"exit_code": known.exit_code}}
