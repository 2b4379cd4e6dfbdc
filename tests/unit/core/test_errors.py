"""The five families, the one table, and the problem that an error renders as."""

from __future__ import annotations

import itertools
import re
import string

import pytest

from appliance.core.errors import (
    ERRORS,
    DeniedError,
    InputError,
    IntegrityError,
    StateError,
    UnavailableError,
    X0tError,
    error,
)

FAMILIES = (InputError, DeniedError, StateError, UnavailableError, IntegrityError)


@pytest.mark.parametrize(
    "family, status, exit_code",
    [
        (InputError, 400, 2),
        (DeniedError, 403, 3),
        (StateError, 409, 4),
        (UnavailableError, 503, 5),
        (IntegrityError, 500, 6),
    ],
)
def test_a_family_has_a_status_and_an_exit_code(family: type[X0tError], status: int, exit_code: int) -> None:
    assert (family.family_status, family.exit_code) == (status, exit_code)


@pytest.mark.parametrize(
    "reason, end",
    [
        ("a word", "a word."),
        ("a sentence.", "a sentence."),
        ("a question?", "a question?"),
        ("left out...", "left out..."),
    ],
)
def test_a_message_ends_with_one_full_stop(reason: str, end: str) -> None:
    assert error("config.value", path="f", name="n", reason=reason).message == f"f: the setting n is not valid: {end}"


@pytest.mark.parametrize("key", ERRORS)
def test_a_row_of_the_table_is_complete(key: str) -> None:
    spec = ERRORS[key]
    assert re.fullmatch(r"[a-z0-9]+\.[a-z0-9_]+", key)
    assert spec.family in FAMILIES
    assert spec.exit_code == spec.family.exit_code
    assert spec.message.endswith((".", "{more}"))  # what is filled in there are whole sentences
    assert spec.hint.endswith((".", "{advice}"))
    for text in (spec.message, spec.hint):
        for _, name, form, conversion in string.Formatter().parse(text):
            assert name is None or (name.isidentifier() and not form and not conversion)


def test_areas_stand_together_and_keys_are_sorted_in_them() -> None:
    areas = [(area, list(keys)) for area, keys in itertools.groupby(ERRORS, lambda key: key.split(".")[0])]
    assert len({area for area, _ in areas}) == len(areas)
    assert [keys for _, keys in areas] == [sorted(keys) for _, keys in areas]


@pytest.mark.parametrize("key", ERRORS)
def test_every_key_can_be_raised_without_details(key: str) -> None:
    failure = error(key)
    assert type(failure) is ERRORS[key].family
    assert (failure.key, failure.status) == (key, ERRORS[key].status)
    assert str(failure) == f"{failure.message} [{key}]"
    assert "{" not in failure.message + failure.hint


def test_details_fill_the_message_and_the_hint() -> None:
    failure = error("units.text", text="1.5h", what="duration", example="90m")
    assert failure.message == "1.5h is not a duration."
    assert failure.hint == "Write a whole number and a unit, such as 90m."


def test_an_error_renders_as_a_problem_of_rfc_9457() -> None:
    assert error("control.body_size", limit=8).problem() == {
        "type": "urn:x0t:error:control.body_size",
        "title": "The input is not valid",
        "status": 413,
        "detail": "The request is larger than 8 bytes.",
        "key": "control.body_size",
        "hint": "Split it into several requests.",
        "params": {"limit": "8"},
    }


@pytest.mark.parametrize(
    "value, shown",
    [
        pytest.param(b"\x00\xff", "00ff", id="bytes as hex"),
        pytest.param(bytes(1000), "00" * 128, id="long bytes cut"),
        pytest.param("x" * 1000, "x" * 256, id="long text cut"),
        pytest.param("a\x1b[31m\nb", "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b", id="no control codes"),
        pytest.param("{key}", "{key}", id="braces are text"),
        pytest.param(7, "7", id="a number"),
    ],
)
def test_a_detail_that_a_peer_chose_cannot_spoil_a_terminal_or_a_log(value: object, shown: str) -> None:
    failure = error("sync.garbage", reason=value)
    assert failure.detail == {"reason": shown}
    assert failure.message == f"The peer sent something that is no message: {shown}."


def test_an_unknown_key_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        error("batch.nonsense")
