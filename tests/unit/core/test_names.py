"""Forms of names: what is a tag, a name of a node, a place to reach it, and a set of tags."""

from __future__ import annotations

import pytest

from appliance.core.names import is_host_port, is_name, is_sorted_set, is_tag, is_tag_set


@pytest.mark.parametrize("text", ["a", "7", "line-1", "a" * 63, "x--y"])
def test_a_tag_is(text: str) -> None:
    assert is_tag(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a b", "a.b", "ä", "a" * 64, "a\n", "a/b", "\u0661"])
def test_no_tag_is(text: str) -> None:
    assert not is_tag(text)


@pytest.mark.parametrize("text", ["x", "press 3", "Grüße", "工場", "n" * 64, " "])
def test_a_name_is(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "n" * 65, "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "a\x00", "a\u2028b"])
def test_no_name_is(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize(
    "text", ["gw:1", "gateway-1.plant.example:65535", "192.0.2.7:7330", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:80"]
)
def test_a_place_is(text: str) -> None:
    assert is_host_port(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "gw", "gw:", ":1", "gw:0", "gw:01", "gw:65536", "gw:99999", "gw:100000", "gw:-1", "gw:1 ", " gw:1",
        "gw:1\n", "GW:1", "-gw:1", "gw-:1", ".gw:1", "gw.:1", "g w:1", "gw\x00:1", "gw\u202e:1", "gé:1", "gw:\u0661",
        "2001:db8::1:7", "[fe80::1%eth0]:1", "[gw]:1", "user@gw:1", "tls://gw:1", "gw/x:1", "a..-b;rm:x",
    ],
)  # fmt: skip
def test_no_place_is(text: str) -> None:
    assert not is_host_port(text)


def test_a_set_is_in_the_one_order_and_has_nothing_twice() -> None:
    assert is_sorted_set(())
    assert is_sorted_set(("a",))
    assert is_sorted_set(("a", "b", "c"))
    assert not is_sorted_set(("b", "a"))
    assert not is_sorted_set(("a", "a"))


def test_a_set_of_tags_has_a_bound() -> None:
    assert is_tag_set(("a", "b"), 2)
    assert not is_tag_set(("a", "b", "c"), 2)
    assert not is_tag_set(("a", "B"), 2)
    assert not is_tag_set(("b", "a"), 2)
