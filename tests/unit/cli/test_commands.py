"""The commands against a socket that gives fixed answers: what is printed where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.cli.files import write_file
from appliance.cli.main import NOUNS, run, say
from appliance.core.errors import X0tError, error
from appliance.core.records import Grant, Key, Link, Links, Rebuilt, Receipt
from tests.unit.cli.answers import answering

KEY = Key(node="node1abc", public_key="ml-dsa-65 AAAA", kept="file")
RECEIPT = Receipt(batch="batch1abc", seq=2, time="2026-01-01T00:00:00.000Z#0", effects=("",))
HOSTILE = "press\x1b]0;3\x07\u202e\x9b31m\r\nnode2"  # a name with which a member attacks the terminal
GRANT = Grant("grant1a", "node1abc", "authority", ("owner",), (), 3, "2026", "2036", "")
LINKS = Links(cut=False, links=(Link("node1abc", "h:1", "out", "up", "2026", HOSTILE),))

ANSWERS: dict[tuple[str, str], object] = {
    ("GET", "/key"): KEY,
    ("GET", "/grants"): [GRANT],
    ("GET", "/links"): LINKS,
    ("POST", "/revocations"): RECEIPT,
    ("POST", "/thaws"): msgspec.structs.replace(RECEIPT, effects=("role",)),
    ("GET", "/replica/no-effect"): [],
    ("GET", "/mesh"): error("replica.no_mesh"),
    ("POST", "/mesh"): error("grant.role", role="owner"),
    ("POST", "/grants"): error("id.text", text="nosuch", reason="it has no prefix"),
    ("GET", "/nodes"): {"type": "x", "key": "some.day", "detail": "Unheard of.", "hint": "Wait.", "exit_code": 5},
}
STREAMS: dict[str, list[object]] = {
    "/replica/rebuild": [
        {"event": "progress", "stage": "reading", "done": 1, "total": 2},
        {"event": "result", "result": Rebuilt(batches=2, before="aa", after="bb")},
    ],
    "/replica/verify": [{"event": "progress", "stage": "reading", "done": 1, "total": 2}],
    "/replica/export": [{"event": "error", "problem": error("replica.disk_full").problem()}],
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("x0t") / "sock"
    with answering(path) as made:
        made.answers, made.streams = ANSWERS, STREAMS
        yield str(path)


def x0t(daemon: str, *arguments: str) -> int:
    return run(["--socket", daemon, *arguments])


def test_data_goes_to_standard_output_and_talk_to_standard_error(
    daemon: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert x0t(daemon, "key", "show", "--export", str(tmp_path / "k")) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert str(tmp_path / "k") in shown.err
    assert (tmp_path / "k").read_text() == "ml-dsa-65 AAAA\n"


@pytest.mark.parametrize("command", [("key", "show"), ("role", "list"), ("link", "list"), ("replica", "no-effect")])
def test_json_is_one_document_on_standard_output_and_nothing_else(
    daemon: str, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert x0t(daemon, *command, "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    json.loads(shown.out)


def test_a_table_has_a_head_and_whole_ids(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert x0t(daemon, "role", "list") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "ROLES", "SCOPE", "DELEGATE", "UNTIL", "STATE"]
    assert row.split() == ["node1abc", "owner", "-", "3", "2036", "in", "force"]


def test_an_empty_list_is_said_and_is_no_data(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert x0t(daemon, "replica", "no-effect") == 0
    assert capsys.readouterr() == ("", "Everything has its effect.\n")


@pytest.mark.parametrize(
    "command,code,says",
    [
        (("mesh", "show"), 4, "x0t mesh create"),
        (("replica", "export", "/tmp/x"), 5, "replica.disk_full"),
        (("replica", "verify"), 5, "control.interrupted"),
        (("replica", "rebuild", "--yes"), 6, "another digest"),
        (("tag", "list"), 5, "Unheard of."),
        (("tag", "set", "node1abc"), 2, "Name a tag"),
        (("nonsense",), 2, "No such command"),
        (("role", "grant"), 2, "Missing"),
    ],
)
def test_an_error_is_a_message_a_hint_and_the_exit_code_of_its_family(
    daemon: str, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], code: int, says: str
) -> None:
    assert x0t(daemon, *command) == code
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown


def test_without_a_daemon_the_socket_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert x0t(str(tmp_path / "none"), "replica", "status") == 5
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_destructive_command_without_a_terminal_needs_yes(
    daemon: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for command in (("role", "revoke", "node1abc"), ("replica", "rebuild", "--json")):
        assert x0t(daemon, *command) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Add --yes" in shown.err
    assert x0t(daemon, "role", "revoke", "node1abc", "--yes") == 0
    assert "Revoked every role" in capsys.readouterr().err


def test_what_is_neither_a_file_nor_a_node_is_called_so(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert x0t(daemon, "role", "grant", "--key", "nosuch", "member") == 2
    assert "no such file, and no node id: nosuch." in capsys.readouterr().err


def test_a_key_file_is_read_and_checked_here(daemon: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "k").write_text("ml-dsa-65 AAAA\n")
    assert x0t(daemon, "role", "grant", "--key", str(tmp_path / "k"), "member") == 2
    assert "key.format" in capsys.readouterr().err


def test_the_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "130 interrupted" in capsys.readouterr().out


def test_a_batch_that_was_written_without_effect_is_no_success(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert x0t(daemon, "author", "thaw", "node1abc", "--keep", "batch1abc", "--yes") == 4
    assert "has no effect here: role" in capsys.readouterr().err


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_command_explains_itself_with_an_example(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    import click

    def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
        if not isinstance(command, click.Group):
            yield path
            return
        for verb, found in command.commands.items():
            yield from commands(found, *path, verb)

    for path in commands(getattr(importlib.import_module(f"appliance.cli.{NOUNS[noun][0]}"), noun), noun):
        assert run([*path, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"Example: x0t {' '.join(path)}" in shown, path
        assert "--json" in shown, path


def test_help_is_quick_because_nouns_load_when_used() -> None:
    command = [sys.executable, "-c", "from appliance.cli.main import main; main(['--help'])"]

    def took_s() -> float:
        """Processor time: what else the machine does is not the command's fault."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(took_s() for _ in range(5)) < 0.15


def test_help_loads_no_table_and_no_driver() -> None:
    probe = "import sys; from appliance.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stderr.split()
    assert not {"rich", "http.client", "asyncio", "aiohttp", "cryptography", "apsw", "automerge"} & set(loaded)


def lines_of(text: str) -> list[str]:
    """Its lines, none of which may hold a character that does something."""
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines), text
    return lines


def test_what_a_peer_wrote_cannot_act_on_the_terminal(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert x0t(daemon, "link", "list") == 0
    assert len(lines_of(capsys.readouterr().out)) == 3
    assert x0t(daemon, "link", "list", "--json") == 0
    shown = capsys.readouterr().out
    lines_of(shown)
    assert json.loads(shown)["links"][0]["note"] == HOSTILE
    say(HOSTILE, HOSTILE)
    assert len(lines_of(capsys.readouterr().err)) == 3


def command(daemon: str, shell: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`x0t link list` as a shell runs it, with something added."""
    text = f"{sys.executable} -m appliance.cli --socket {daemon} {shell}"
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, check=False, env=os.environ | env, timeout=30
    )


@pytest.mark.parametrize(
    "shell, env, code, says",
    [
        ("link list >&-", {}, 0, ""),
        ("link list 2>&-", {}, 0, ""),
        ("link list --json | head -c 1", {}, 0, ""),
        ("link list > /dev/full", {}, 4, "standard output"),
        ("link list --json > /dev/full", {}, 4, "standard output"),
        ("link list", {"PYTHONIOENCODING": "ascii"}, 0, ""),
        (r"mesh create $'\xff'", {}, 2, "control.request"),
        (r"replica show $'\xff'", {}, 2, "control.request"),
        (f"role grant member --key {'n' * 300}", {}, 4, "control.file"),
        ("key show --export /nonexistent/k", {}, 4, "control.file"),
    ],
)
def test_an_unusual_shell_or_locale_ends_in_a_sentence_and_never_in_a_traceback(
    daemon: str, shell: str, env: dict[str, str], code: int, says: str
) -> None:
    done = command(daemon, shell, **env)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_could_not_be_written_leaves_nothing_beside_it(daemon: str, tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    with pytest.raises(X0tError, match=r"control\.file"):
        write_file(tmp_path / "k", b"key")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
