from __future__ import annotations

from pathlib import Path

from appliance.daemon import events

DAEMON = Path(events.__file__).parent
NAMES = {name: value for name, value in vars(events).items() if name.isupper()}


def test_every_event_is_logged_somewhere() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in DAEMON.rglob("*.py") if path.name != "events.py")
    assert [name for name in NAMES if f"events.{name}" not in source] == []


def test_event_names_are_unique() -> None:
    assert len(set(NAMES.values())) == len(NAMES)
    lines = Path(events.__file__).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if ' = "' in line]) == len(NAMES)
