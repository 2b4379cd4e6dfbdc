from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.printable import printable, printable_json


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Zellstoffwerk Süd 7 工場", "Zellstoffwerk Süd 7 工場"),
        ("", ""),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x9b31mb", "a\\x9b31mb"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("pay\u202eetis", "pay\\u202eetis"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\u2028end", "line\\u2028end"),
        ("\x7f\x00", "\\x7f\\x00"),
        ("\U000e0041", "\\U000e0041"),
        ("lone \udc80", "lone \\udc80"),
    ],
)
def test_what_cannot_be_printed_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_some_characters_may_be_kept() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@given(st.text())
def test_the_outcome_can_be_printed_and_is_stable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_value_and_shows_no_such_character(value: object) -> None:
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert text.replace("\n", "").replace("\x7f", "").isprintable()
