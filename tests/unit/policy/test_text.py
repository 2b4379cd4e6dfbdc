"""The reader of policy texts: what it gives, and where it says that something is wrong."""

from __future__ import annotations

from contextlib import suppress

import pytest

from appliance.core.errors import InputError
from appliance.core.limits import Limits
from appliance.policy.text import Mapping, Node, Problem, Problems, Scalar, Sequence, nearest, read, text_error


def outline(node: Node) -> object:
    """A tree without its places."""
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [outline(item) for item in node.items]
        case Mapping():
            return {field.key.text: outline(field.value) for field in node.fields}


def places(node: Node) -> list[tuple[str, int, int]]:
    """Every scalar with its line and column, in the order of the text."""
    match node:
        case Scalar():
            return [(node.text, node.line, node.column)]
        case Sequence():
            return [place for item in node.items for place in places(item)]
        case Mapping():
            return [place for field in node.fields for part in (field.key, field.value) for place in places(part)]


READ = [
    ("a: b", {"a": "b"}),
    ("\ufeffa: b", {"a": "b"}),
    ("a: b\r\nc: d\r\n", {"a": "b", "c": "d"}),
    ("---\na: b\n...\n", {"a": "b"}),
    (
        "a: no\nb: 12:30\nc: 0755\nd: 1e3\ne: 2026-12-01\nf: ~",
        {"a": "no", "b": "12:30", "c": "0755", "d": "1e3", "e": "2026-12-01", "f": "~"},
    ),
    ("[tag:a, subnet:fd00:1::/64]", ["tag:a", "subnet:fd00:1::/64"]),
    ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ("{a: http://x/y, b: 'c // d'}", {"a": "http://x/y", "b": "c // d"}),
    (
        '// first\n/* second\n {[" */ {"a": 1, /* between */ "b": [true, null,], // last\n}',
        {"a": "1", "b": ["true", "null"]},
    ),
    ('{"a":"b // c /* d */"}', {"a": "b // c /* d */"}),
    ('{\n\t"a":\t"b\\tc"\n}', {"a": "b\tc"}),
    ('{"a": "\\ud83d\\ude00 \\u00e9 \\/ \\" \\\\"}', {"a": '\U0001f600 é / " \\'}),
    ('{"a": "\\\\ud83d\\\\ude00"}', {"a": "\\ud83d\\ude00"}),
    ('{"a":\n"b"}', {"a": "b"}),
    ("{}", {}),
    ("/* a policy */ []", []),
]


@pytest.mark.parametrize("text,tree", READ)
def test_yaml_and_hujson_give_the_texts_that_were_typed(text: str, tree: object) -> None:
    assert outline(read(text)) == tree


def test_a_scalar_tells_whether_it_was_quoted_and_whether_it_is_nothing() -> None:
    tree = read("[a, 'a', \"\", null, 'null', ~]")
    assert isinstance(tree, Sequence)
    scalars = [item for item in tree.items if isinstance(item, Scalar)]
    assert [item.quoted for item in scalars] == [False, True, True, False, True, False]
    assert [item.is_null for item in scalars] == [False, False, False, True, False, True]


def test_places_are_those_of_the_text_as_typed() -> None:
    text = '// c\n{"a": /* x\n*/ "\\ud83d\\ude00", "b": [1,\t2], // "z"\n "é": 3}'
    assert places(read(text)) == [
        *[("a", 2, 2), ("\U0001f600", 3, 4), ("b", 3, 20), ("1", 3, 26), ("2", 3, 29)],
        *[("é", 4, 2), ("3", 4, 7)],
    ]


WRONG = [
    ("", "1:1: it is empty; a policy begins with `version: 1`"),
    ("# only a comment\n", "1:1: it is empty; a policy begins with `version: 1`"),
    ("a: b\n---\nc: d\n", "2:1: a second document begins here; one is expected"),
    ("a: &x b", "1:4: anchors (&) and tags (!) have no meaning here"),
    ("- &x {a: b}", "1:3: anchors (&) and tags (!) have no meaning here"),
    ("a: !!int b", "1:4: anchors (&) and tags (!) have no meaning here"),
    ("- *x", "1:3: an alias (*) has no meaning here; write it out"),
    ("a: 1\nb: 2\na: 3\n", "3:1: a is here a second time"),
    ('{"a": 1,\n "a": 2}', "2:2: a is here a second time"),
    ("? [a]\n: b\n", "1:3: a key is a plain text"),
    ("a:\n\t- b", "2:1: no word begins so: indent with spaces, and quote such a text"),
    ("a: @b", "1:4: no word begins so: indent with spaces, and quote such a text"),
    ("a: b: c", "1:5: a colon and a space make a key, which has no place here"),
    ('{"a": 1', "2:1: did not find expected ',' or '}'"),
    ('{"a": "b', "1:9: found unexpected end of stream"),
    ('{"a": "\\ud83d"}', "1:10: found invalid Unicode character escape code"),
    ("a: b\nc: d\x07e", "2:5: the character U+0007 has no place in a text"),
    ("a: \ud800", "1:4: the character U+D800 has no place in a text"),
    ("[" * 17, "1:17: it is nested too deeply"),
    ("- " * 17 + "a", "1:33: it is nested too deeply"),
]


@pytest.mark.parametrize("text,problem", WRONG)
def test_what_is_wrong_is_told_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=r"policy\.text") as found:
        read(text)
    assert dict(found.value.detail) == {"problem": problem, "count": "1"}


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 200_000, "{" * 200_000, "{a: " * 200_000, "- " * 300_000, "? " * 300_000, "[a," * 200_000),
        *("/*" * 400_000, "/*/" * 300_000 + "{", "//\n" * 300_000, "// " * 300_000 + "{", '{"' + "\\" * 800_000),
        *("{" + '"a' * 400_000, "&a " * 300_000, "%a\n" * 250_000, '{"' + "\\ud83d" * 150_000 + '"}'),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_text_made_to_be_slow_is_read_or_refused_soon(text: str) -> None:
    """The timeout of a test is the bound; each takes well below a second."""
    with suppress(InputError):
        read(text)


def test_a_text_has_a_bound_in_bytes() -> None:
    assert outline(read("é: a", Limits(policy_text_bytes=5))) == {"é": "a"}
    with pytest.raises(InputError, match=r"at most 4 bytes.*policy\.size"):
        read("é: a", Limits(policy_text_bytes=4))


def test_nesting_has_a_bound() -> None:
    assert outline(read("[[a]]", Limits(policy_depth=2))) == [["a"]]
    with pytest.raises(InputError, match="1:3: it is nested too deeply"):
        read("[[[a]]]", Limits(policy_depth=2))


def test_problems_are_told_at_once_in_the_order_of_the_text_and_twenty_of_them() -> None:
    problems = Problems()
    for line in range(30, 0, -1):
        problems.add(Scalar("x", line, 2), "it is wrong")
    with pytest.raises(InputError) as found:
        problems.check()
    detail = found.value.detail
    assert (detail["problem"], detail["count"], len(detail)) == ("1:2: it is wrong", "30", 21)
    assert (detail["also_1"], detail["also_19"]) == ("2:2: it is wrong", "20:2: it is wrong")


def test_nothing_is_raised_without_a_problem() -> None:
    Problems().check()


def test_only_the_first_problems_are_worth_a_suggestion() -> None:
    problems = Problems()
    for column in range(1, 31):
        problems.add(Scalar("x", 1, column), "it is wrong.", "robt", ["robot"])
    with pytest.raises(InputError) as found:
        problems.check()
    assert found.value.detail["also_19"] == "1:20: it is wrong. Did you mean robot?"


@pytest.mark.parametrize(
    "text,known,suggestion",
    [
        ("robt", ["plc", "robot"], " Did you mean robot?"),
        ("robot", [], ""),
        ("camera", ["plc", "robot"], ""),
        ("r" * 81, ["r" * 80], ""),
    ],
)
def test_the_nearest_name_is_suggested_if_it_is_near(text: str, known: list[str], suggestion: str) -> None:
    assert nearest(text, known) == suggestion


def test_an_error_of_the_text_can_be_made_of_any_problems() -> None:
    assert (
        str(text_error([Problem(3, 4, "it is wrong")])) == "The policy cannot be read: 3:4: it is wrong. [policy.text]"
    )
