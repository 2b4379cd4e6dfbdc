from __future__ import annotations

import asyncio
import functools
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession, UnixConnector, web
from structlog.testing import capture_logs

from appliance.core.errors import StateError, error
from appliance.core.limits import Limits
from appliance.core.records import FileAsk, LogAsk, Progress
from appliance.daemon.control.reply import Lines, Report, query, read, reply, stream_work, streaming
from appliance.daemon.control.server import ControlServer, bind_private

pytestmark = pytest.mark.blocking  # the socket is bound before the loop serves anybody
LIMITS = Limits(control_body_bytes=4096, control_request_s=1)


async def _state(_request: web.Request) -> web.StreamResponse:
    raise error("replica.no_mesh")


async def _bug(_request: web.Request) -> web.StreamResponse:
    raise KeyError("secret detail")


async def _echo(request: web.Request) -> web.StreamResponse:
    return reply(await read(request, FileAsk))


async def _log(request: web.Request) -> web.StreamResponse:
    return reply(query(request, LogAsk))


async def _hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _works(request: web.Request) -> web.StreamResponse:
    async def work(report: Report) -> object:
        report("reading", 1, 2)
        await asyncio.sleep(0)
        return {"done": True}

    return await stream_work(request, work)


async def _fails(request: web.Request) -> web.StreamResponse:
    async def work(_report: Report) -> object:
        raise error("replica.disk_full")

    return await stream_work(request, work)


async def _floods(gone: asyncio.Event, request: web.Request) -> web.StreamResponse:
    async with Lines(request) as lines:
        try:
            while True:
                await lines.write("x" * 65_536)
        except ConnectionError:
            gone.set()
    return lines.response


ROUTES = [
    web.get("/v1/state", _state),
    web.get("/v1/bug", _bug),
    web.post("/v1/echo", _echo),
    web.get("/v1/log", _log),
    web.get("/v1/hang", _hang),
    web.post("/v1/works", streaming(_works)),
    web.post("/v1/fails", streaming(_fails)),
]


@asynccontextmanager
async def served(tmp_path: Path, gone: asyncio.Event | None = None) -> AsyncIterator[ClientSession]:
    path = tmp_path / "run" / "x0td.sock"
    ready = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        routes = [*ROUTES, web.get("/v1/floods", streaming(functools.partial(_floods, gone or asyncio.Event())))]
        task = group.create_task(ControlServer(path, routes, LIMITS).serve(ready.set))
        await ready.wait()
        async with ClientSession(connector=UnixConnector(path=str(path))) as session:
            yield session
        task.cancel()


@pytest.mark.parametrize(
    "method,path,status,key",
    [
        ("GET", "/v1/state", 409, "replica.no_mesh"),
        ("GET", "/v1/bug", 500, "control.failed"),
        ("GET", "/v1/none", 404, "control.route"),
        ("POST", "/v1/state", 404, "control.route"),
        ("POST", "/v1/echo", 400, "control.request"),
        ("GET", "/v1/log?limit=x", 400, "control.request"),
        ("GET", "/v1/log?limits=1", 400, "control.request"),
        ("GET", "/v1/hang", 503, "control.timeout"),
    ],
)
async def test_an_error_leaves_as_a_problem_with_the_id_of_its_request(
    tmp_path: Path, method: str, path: str, status: int, key: str
) -> None:
    async with served(tmp_path) as session, session.request(method, f"http://x{path}", data=b"{}") as answer:
        problem = msgspec.json.decode(await answer.read())
        assert (answer.status, problem["key"]) == (status, key)
        assert answer.content_type == "application/problem+json"
        assert problem["instance"].startswith("urn:x0t:request:")
        assert "secret detail" not in str(problem)


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as session, session.post("http://x/v1/echo", data=b"x" * 5000) as answer:
        assert answer.status == 413
        assert (await answer.json(content_type=None))["key"] == "control.body_size"


async def test_a_record_is_read_and_written(tmp_path: Path) -> None:
    async with served(tmp_path) as session, session.post("http://x/v1/echo", json={"path": "/a"}) as answer:
        assert (answer.status, await answer.json()) == (200, {"path": "/a"})


async def test_a_body_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    headers = {"Content-Encoding": "gzip"}
    async with served(tmp_path) as session, session.post("http://x/v1/echo", data=b"zz", headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["key"]) == (400, "control.request")


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/works"])
async def test_a_question_that_is_never_finished_ends_in_time_whether_its_answer_is_a_stream_or_not(
    tmp_path: Path, path: str
) -> None:
    async with served(tmp_path):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "x0td.sock")
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert b"control.timeout" in await reader.read()
        writer.close()


async def test_a_request_head_that_is_never_finished_is_let_go(tmp_path: Path) -> None:
    async with served(tmp_path):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "x0td.sock")
        writer.write(b"GET /v1/st")
        assert await reader.read() == b""
        writer.close()


async def test_whoever_leaves_before_the_question_is_whole_is_no_fault_of_ours(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with served(tmp_path):
            _, writer = await asyncio.open_unix_connection(tmp_path / "run" / "x0td.sock")
            writer.write(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.sleep(0.05)
    assert [line for line in logged if line["log_level"] == "error"] == []


async def test_a_reader_that_reads_no_more_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.daemon.control.reply.READER_S", 0.1)
    gone = asyncio.Event()
    async with served(tmp_path, gone):
        _, writer = await asyncio.open_unix_connection(tmp_path / "run" / "x0td.sock", limit=1)
        writer.write(b"GET /v1/floods HTTP/1.1\r\nHost: x\r\n\r\n")
        await gone.wait()
        writer.close()


async def test_a_stream_is_progress_and_then_a_result(tmp_path: Path) -> None:
    async with served(tmp_path) as session, session.post("http://x/v1/works") as answer:
        lines = (await answer.read()).splitlines()
        assert msgspec.json.decode(lines[0], type=Progress) == Progress(stage="reading", done=1, total=2)
        assert msgspec.json.decode(lines[-1]) == {"event": "result", "result": {"done": True}}


async def test_a_stream_that_fails_ends_with_the_problem(tmp_path: Path) -> None:
    async with served(tmp_path) as session, session.post("http://x/v1/fails") as answer:
        end = msgspec.json.decode((await answer.read()).splitlines()[-1])
        assert (end["event"], end["problem"]["key"], end["problem"]["exit_code"]) == ("error", "replica.disk_full", 5)


def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x0td.sock"
    with bind_private(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_socket_that_answers_is_not_taken_over_and_a_dead_one_is(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x0td.sock"
    with bind_private(path), pytest.raises(StateError, match="another daemon answers"):
        bind_private(path)
    with bind_private(path):
        pass


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateError, match="others may write"):
        bind_private(tmp_path / "x0td.sock")


_KNOCK = """
import http.client, os, socket, sys
os.setgid(65534), os.setuid(65534)
connection = http.client.HTTPConnection("x")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/v1/state")
print(connection.getresponse().status)
"""


@pytest.mark.usefixtures("root")
async def test_another_user_is_turned_away_by_the_kernels_word_even_if_the_file_modes_let_it_in() -> None:
    ready = asyncio.Event()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run" / "x0td.sock"
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(ControlServer(path, ROUTES, LIMITS).serve(ready.set))
            await ready.wait()
            for directory in (path.parent, path.parent.parent):
                directory.chmod(0o755)
            path.chmod(0o666)
            knocker = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _KNOCK, str(path), stdout=asyncio.subprocess.PIPE
            )
            assert (await knocker.communicate())[0].strip() == b"403"
            task.cancel()
