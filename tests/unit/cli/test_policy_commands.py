"""`x0t policy` against prepared answers: what goes to the daemon, what is printed where, and the exit codes."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import error
from appliance.core.network_records import (
    Explanation,
    PolicyBlocked,
    PolicyContent,
    PolicyDone,
    PolicyFailure,
    PolicyImported,
    PolicyRevision,
    PolicyState,
    PolicyTried,
    Preview,
    PreviewRow,
    RuleView,
)
from tests.unit.cli.answers import Daemon, answering

TEXT = "version: 1\nrules: []\n"
STATE = PolicyState("aa11", "aa11", "node1a", "2026", 2, 1, TEXT)
DONE = PolicyDone(("batch1a",), "bb22" * 16, ("tag:x is on no node",), "", ())
CLEAN = Preview(("allow a",), (), (PreviewRow("gains", ("a",), ("b",), ("tcp/1",)),), 3, (), (), ("w",), "aa11")
FAILURE = PolicyFailure("allow a -> b: tcp/1", "allow", "tcp/1 is denied", ())
CUT = msgspec.structs.replace(CLEAN, cuts_off=("plc-1",))
RULE = RuleView("ab" * 16, "allow tag:a -> tag:b: tcp/1", ("tag:a", "tag:b"), "anna", "2026", 1_234, 5)
REVISION = PolicyRevision("cc33" * 16, "node1a", "anna", "2026", "in force", "", 2, 1)
MISTAKES = error("policy.text", problem="1:1: one", count=3, also_1="2:1: two", also_2="3:1: three")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with answering(tmp_path / "sock") as made:
        made.answers = {
            ("GET", "/policy"): STATE,
            ("POST", "/policy"): DONE,
            ("POST", "/policy/preview"): CLEAN,
            ("POST", "/policy/tests"): PolicyTried(2, 1, (), ()),
            ("POST", "/policy/confirmation"): STATE,
            ("POST", "/policy/explanation"): Explanation(True, "a may reach b", (RULE,), (), ()),
            ("GET", "/policy/revisions"): (REVISION,),
            ("GET", "/policy/revisions/cc33"): PolicyContent("cc33", TEXT),
            ("POST", "/policy/imports/tailscale"): PolicyImported(TEXT, 1, 0, ("3:1: ssh",)),
        }
        yield made


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(TEXT)
    return str(path)


class Desk:
    """A person's editor, which is a script, and the place of the drafts; nobody is at the terminal."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drafts = folder / "drafts"
        self.drafts.mkdir()
        self._program = folder / "editor"
        monkeypatch.setattr(tempfile, "tempdir", str(self.drafts))
        monkeypatch.setattr("sys.stdin", io.StringIO())
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"{self._program} --wait")
        self.script('printf "# more\\n" >> "$2"')

    def script(self, line: str) -> None:
        """What the editor does with the draft, which is `$2`."""
        self._program.write_text(f"#!/bin/sh\n{line}\n")
        self._program.chmod(0o700)

    def left(self) -> list[Path]:
        """The drafts that are there."""
        return list(self.drafts.iterdir())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


# ---- every command once, for machines


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "apply FILE",
        "apply FILE --dry-run",
        "confirm",
        "test",
        "test FILE",
        "preview FILE",
        "explain a b tcp/1",
        "history",
        "revert cc33 --yes",
        "import tailscale FILE",
    ],
)
def test_json_is_one_document_and_nothing_but_warnings_beside_it(
    daemon: Daemon, file: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.x0t("policy", *command.replace("FILE", file).split(), "--json") == 0
    shown = capsys.readouterr()
    json.loads(shown.out)
    assert all(line.startswith(("warning:", "not carried over:")) for line in shown.err.splitlines())


def test_what_show_prints_is_what_apply_takes(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = PolicyBlocked("dd44", (), (), "it fails its tests")
    daemon.answers["GET", "/policy"] = msgspec.structs.replace(STATE, blocked=blocked, confirm_by="12:00")
    assert daemon.x0t("policy", "show") == 0
    shown = capsys.readouterr()
    assert shown.out == TEXT
    assert "2 rules, 1 tests; revision aa11" in shown.err
    assert "not in force: it fails its tests" in shown.err
    assert "undone at 12:00" in shown.err


def test_history_and_explain_say_who_and_how_much(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.x0t("policy", "history") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["REVISION", "TIME", "AUTHOR", "CHANGE", "STANDING", "REASON"]
    assert row.split()[:3] == ["cc33cc33cc33cc33", "2026", "anna"]
    assert daemon.x0t("policy", "explain", "a", "b", "tcp/1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "a may reach b",
        "  allowed by: allow tag:a -> tag:b: tcp/1",
        "    through tag:a and tag:b",
        "    signed by anna, in force since 2026",
        "    1,234 packets, 5 bytes here",
    ]


# ---- a file goes in


def test_a_file_goes_in_whole_and_what_became_of_it_is_said(
    daemon: Daemon, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.x0t("policy", "apply", file, "--if-revision", "aa11", "--confirm-within", "2m") == 0
    assert daemon.bodies("/policy") == [{"text": TEXT, "if_revision": "aa11", "confirm_s": 120}]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "warning: w" in shown.err
    assert "CHANGE  FROM  TO  SERVICES" in shown.err
    assert "The policy is bb22bb22bb22bb22." in shown.err


@pytest.mark.parametrize("within, seconds", [("0s", 0), ("1ms", 1), ("1500ms", 2), ("1m", 60)])
def test_a_short_time_to_confirm_never_becomes_none(daemon: Daemon, file: str, within: str, seconds: int) -> None:
    assert daemon.x0t("policy", "apply", file, "--confirm-within", within) == 0
    assert daemon.bodies("/policy")[0]["confirm_s"] == seconds


def test_standard_input_is_a_file_too(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("apply", "preview", "test"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
        assert daemon.x0t("policy", command, "-") == 0
    assert [body["text"] for _, _, body in daemon.asked] == [TEXT] * 4  # apply asks for the preview too


@pytest.mark.parametrize(
    "data, ends",
    [(None, (4, "control.file")), (b"\xff", (4, "control.file")), (b"#" * ((1 << 20) + 1), (2, "policy.size"))],
)
def test_a_file_that_is_no_policy_is_refused_before_the_daemon_is_asked(
    daemon: Daemon, tmp_path: Path, data: bytes | None, ends: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad"
    if data is not None:
        path.write_bytes(data)
    assert daemon.x0t("policy", "apply", str(path)) == ends[0]
    assert ends[1] in capsys.readouterr().err
    assert daemon.asked == []


def test_a_dry_run_shows_what_would_change_and_changes_nothing(
    daemon: Daemon, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.x0t("policy", "apply", file, "--dry-run") == 0
    table = "CHANGE  FROM  TO  SERVICES\ngains   a     b   tcp/1\n"
    assert capsys.readouterr() == (f"+ allow a\n{table}... and 3 more\n", "warning: w\n")
    assert daemon.bodies("/policy") == []


def test_a_change_that_cuts_this_node_off_needs_a_yes(
    daemon: Daemon, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["POST", "/policy/preview"] = CUT
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert daemon.x0t("policy", "apply", file) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "loses touch with plc-1" in shown.err
    assert "gains   a     b   tcp/1" in shown.err
    assert daemon.bodies("/policy") == []
    assert daemon.x0t("policy", "apply", file, "--yes") == 0


@pytest.mark.parametrize("command", ["apply FILE", "apply FILE --dry-run", "test FILE", "test FILE --json", "test"])
def test_failing_tests_end_with_code_2_and_nothing_is_applied(
    daemon: Daemon, file: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["POST", "/policy/preview"] = msgspec.structs.replace(CLEAN, failures=(FAILURE,))
    daemon.answers["POST", "/policy/tests"] = PolicyTried(2, 1, (), (FAILURE,))
    assert daemon.x0t("policy", *command.replace("FILE", file).split()) == 2
    assert "allow a -> b: tcp/1: expected allow, found tcp/1 is denied" in capsys.readouterr().err
    assert daemon.bodies("/policy") == []


@pytest.mark.parametrize("command", ["apply FILE", "preview FILE", "test FILE", "import tailscale FILE"])
def test_every_mistake_of_a_text_is_printed_with_its_place(
    daemon: Daemon, file: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("/policy/preview", "/policy/tests", "/policy/imports/tailscale"):
        daemon.answers["POST", path] = MISTAKES
    assert daemon.x0t("policy", *command.replace("FILE", file).split()) == 2
    shown = capsys.readouterr().err
    assert all(each in shown for each in ("1:1: one", "also 2:1: two", "also 3:1: three", "3 problems"))


@pytest.mark.parametrize(
    "answer, code",
    [(error("policy.waiting"), 4), (error("grant.role", role="admin"), 3), (error("replica.closing"), 5)],
)
def test_a_refusal_ends_with_the_code_of_its_family(daemon: Daemon, file: str, answer: object, code: int) -> None:
    daemon.answers["POST", "/policy"] = answer
    assert daemon.x0t("policy", "apply", file) == code


def test_an_import_is_printed_or_written_and_what_is_left_out_is_said(
    daemon: Daemon, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.x0t("policy", "import", "tailscale", file) == 0
    assert capsys.readouterr() == (TEXT, "not carried over: 3:1: ssh\n")
    out = tmp_path / "out.yaml"
    assert daemon.x0t("policy", "import", "tailscale", file, "--mapping", file, "--out", str(out)) == 0
    assert (capsys.readouterr().out, out.read_text()) == ("", TEXT)
    assert daemon.bodies("/policy/imports/tailscale")[-1]["mapping"] == TEXT


# ---- the editor


def test_an_edit_is_applied_on_top_of_what_was_opened_and_leaves_no_draft(daemon: Daemon, desk: Desk) -> None:
    assert daemon.x0t("policy", "edit") == 0
    assert daemon.bodies("/policy") == [{"text": TEXT + "# more\n", "if_revision": "aa11", "confirm_s": None}]
    assert desk.left() == []


def test_an_edit_that_changes_nothing_asks_nothing(
    daemon: Daemon, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.script(":")
    assert daemon.x0t("policy", "edit") == 0
    assert "Nothing was changed." in capsys.readouterr().err
    assert [path for _, path, _ in daemon.asked] == ["/policy"]
    assert desk.left() == []


REFUSALS: list[tuple[str, object, int]] = [
    ("/policy/preview", MISTAKES, 2),
    ("/policy/preview", msgspec.structs.replace(CLEAN, failures=(FAILURE,)), 2),
    ("/policy/preview", CUT, 2),  # nobody is there to say yes
    ("/policy", error("policy.changed", revision="dd44"), 4),
    ("/policy", {"type": "x", "key": "some.day", "detail": "Unheard of.", "exit_code": 5}, 5),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_draft_that_is_refused_stays_and_its_place_is_said(
    daemon: Daemon, desk: Desk, capsys: pytest.CaptureFixture[str], refusal: tuple[str, object, int]
) -> None:
    path, answer, code = refusal
    daemon.answers["POST", path] = answer
    assert daemon.x0t("policy", "edit") == code
    (draft,) = desk.left()
    assert draft.read_text() == TEXT + "# more\n"
    shown = capsys.readouterr().err
    assert str(draft) in shown
    assert "Traceback" not in shown
    if answer is MISTAKES:
        assert shown.count("1:1: one") == shown.count("2:1: two") == 1


@pytest.mark.parametrize("script, key", [("exit 3", "control.editor"), ('printf "\\377" > "$2"', "control.file")])
def test_an_editor_that_fails_or_writes_no_text_leaves_the_draft(
    daemon: Daemon, desk: Desk, capsys: pytest.CaptureFixture[str], script: str, key: str
) -> None:
    desk.script(script)
    assert daemon.x0t("policy", "edit") == 4
    (draft,) = desk.left()
    shown = capsys.readouterr().err
    assert key in shown
    assert str(draft) in shown


def test_an_editor_that_is_not_there_is_named(
    daemon: Daemon, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISUAL", "/nonexistent/editor")
    assert daemon.x0t("policy", "edit") == 4
    assert "/nonexistent/editor" in capsys.readouterr().err
    assert len(desk.left()) == 1


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_mistake_brings_the_editor_back_with_what_was_typed(
    daemon: Daemon, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["POST", "/policy/preview"] = MISTAKES
    monkeypatch.setattr("sys.stdin", Terminal("yes\nno\n"))
    assert daemon.x0t("policy", "edit") == 2
    (draft,) = desk.left()
    assert draft.read_text() == TEXT + "# more\n" * 2
    assert capsys.readouterr().err.count("2:1: two") == 3  # before each question, and at the end
