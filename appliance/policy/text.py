"""Reading the text of a policy file, YAML 1.1 or HuJSON, into a tree whose every part knows its line and column.

HuJSON (JSON with comments and trailing commas) becomes YAML by blanking its comments and tabs, and by writing pairs of
surrogates as one escape: positions stay. A scalar is plain text here, never a number, a date or a truth value, so `no`,
`12:30` and `0755` are what was typed. Anchors, aliases and tags are refused, and nesting is bounded while reading, so a
small file cannot grow. libyaml parses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

import msgspec
import yaml

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the pure one is thirty times slower
_HUJSON = re.compile(r"\ufeff?(?>\s|//[^\n]*\n|/\*.*?\*/)*+[{\[]", re.DOTALL)  # possessive: it never tries twice
# What is begun and not ended is one token too, left as it is: else each further beginning would be tried to the end.
_TOKEN = re.compile(
    r"""(?P<kept>"(?:\\.|[^"\\\n])*+\\?(?:"|(?=\n)|\Z)|'[^'\n]*'|(?<=\w:)//|/\*(?!.*?\*/).*)|//[^\n]*|/\*.*?\*/|\t""",
    re.DOTALL,
)
_PAIR = re.compile(r"\\(?:u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")  # YAML 1.1, 5.1
SHOWN = 20  # problems of one file that are told at once
_CUTOFF = 0.6  # difflib's own; below it suggestions confuse more than they help
_LIKE_CHARS = 80  # a longer text is no mistyped name
_CLEARER = {  # what libyaml says, for people
    "found character that cannot start any token": "no word begins so: indent with spaces, and quote such a text",
    "mapping values are not allowed in this context": "a colon and a space make a key, which has no place here",
    "could not find expected ':'": "expected a key with a colon and a space behind it",
}
_NULLS = frozenset({"", "~", "null"})


class _Mark(Protocol):
    """A place in a text as PyYAML and libyaml give it, from 0."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True):
    """A text, as written but for quotes and escapes. Lines and columns count from 1."""

    text: str
    line: int
    column: int
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        """True for nothing at all, `~` and `null`."""
        return not self.quoted and self.text in _NULLS


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    line: int
    column: int


class Field(msgspec.Struct, frozen=True):
    """A key of a mapping and its value."""

    key: Scalar
    value: Node


class Mapping(msgspec.Struct, frozen=True):
    """Keys, each once, and their values, as they stand."""

    fields: tuple[Field, ...]
    line: int
    column: int


Node: TypeAlias = Scalar | Sequence | Mapping


class Problem(msgspec.Struct, frozen=True, order=True):
    """What is wrong, or doubtful, at a place of the text."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.text}"


class Problems:
    """Collects the problems of one text, so that a person sees them all at once. Bounded."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, at: Node, text: str, given: str = "", known: Iterable[str] = ()) -> None:
        """Note a problem at a node; among the first, with the known name that is most like what was given."""
        near = nearest(given, known) if given and len(self._found) < SHOWN else ""
        self._found.append(Problem(at.line, at.column, text + near))

    def check(self) -> None:
        """Raise `policy.text` if there is any."""
        if self._found:
            raise text_error(self._found)


def text_error(problems: Iterable[Problem]) -> X0tError:
    """`policy.text`: the first problem in the message, further ones as details `also_1` and so on."""
    first, *others = sorted(problems)
    also = {f"also_{number}": str(problem) for number, problem in enumerate(others[: SHOWN - 1], start=1)}
    return error("policy.text", problem=str(first), count=1 + len(others), **also)


def nearest(text: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the known name that is most like the text; empty if none is."""
    near = difflib.get_close_matches(text, list(known), n=1, cutoff=_CUTOFF) if len(text) <= _LIKE_CHARS else []
    return f" Did you mean {near[0]}?" if near else ""


def read(text: str, limits: Limits = LIMITS) -> Node:
    """The tree of a text. Raises `policy.text`, or `policy.size` for too much of it."""
    if len(text.encode("utf-8", "surrogatepass")) > limits.policy_text_bytes:
        raise error("policy.size", limit=limits.policy_text_bytes)
    if _HUJSON.match(text):
        text = _TOKEN.sub(_as_yaml, text)
    _refuse_controls(text)
    try:
        return _document(iter(yaml.parse(text, Loader=_LOADER)), limits)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        said = err.problem or "it is neither YAML nor HuJSON"
        raise text_error([_problem(mark, _CLEARER.get(said, said))]) from err
    except yaml.YAMLError as err:
        raise text_error([Problem(1, 1, f"it is neither YAML nor HuJSON: {err}".splitlines()[0])]) from err


def _refuse_controls(text: str) -> None:
    found = _NO_TEXT.search(text)
    if found is not None:
        before = text[: found.start()]
        line, column = before.count("\n") + 1, found.start() - before.rfind("\n")
        raise text_error([Problem(line, column, f"the character U+{ord(found[0]):04X} has no place in a text")])


def _as_yaml(match: re.Match[str]) -> str:
    """A token of HuJSON with its length kept: a shorter string is followed by spaces."""
    found = match[0]
    if match["kept"] is None:
        return re.sub(r"[^\n]", " ", found)
    return _PAIR.sub(_one_escape, found).ljust(len(found)) if "\\" in found else found


def _one_escape(match: re.Match[str]) -> str:
    if match["high"] is None:
        return match[0]
    character = bytes.fromhex(match["high"] + match["low"]).decode("utf-16-be")
    return f"\\U{ord(character):08X}"


def _document(events: Iterator[yaml.Event], limits: Limits) -> Node:
    """The one document of a stream, built without recursion."""
    tree: Node | None = None
    builder = _Builder(limits)
    for event in events:
        match event:
            case yaml.ScalarEvent() | yaml.CollectionStartEvent() | yaml.CollectionEndEvent() | yaml.AliasEvent():
                tree = builder.take(event)
            case yaml.DocumentStartEvent() if tree is not None:
                raise text_error([_problem(event.start_mark, "a second document begins here; one is expected")])
            case _:
                pass
    if tree is None:
        raise text_error([Problem(1, 1, "it is empty; a policy begins with `version: 1`")])
    return tree


class _Open(msgspec.Struct):
    """A collection that is not complete yet."""

    event: yaml.CollectionStartEvent
    nodes: list[Node]


class _Builder:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: list[_Open] = []

    def take(self, event: yaml.Event) -> Node | None:
        """Take the next event; the whole tree with the last one."""
        if isinstance(event, yaml.AliasEvent):
            raise text_error([_problem(event.start_mark, "an alias (*) has no meaning here; write it out")])
        if isinstance(event, yaml.ScalarEvent):
            return self._add(_scalar(event))
        if isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(event)
            if len(self._open) >= self._limits.policy_depth:
                raise text_error([_problem(event.start_mark, "it is nested too deeply")])
            self._open.append(_Open(event, []))
            return None
        return self._add(_closed(self._open.pop()))

    def _add(self, node: Node) -> Node | None:
        if not self._open:
            return node
        self._open[-1].nodes.append(node)
        return None


def _closed(done: _Open) -> Node:
    line, column = _place(done.event.start_mark)
    if isinstance(done.event, yaml.SequenceStartEvent):
        return Sequence(tuple(done.nodes), line, column)
    fields: dict[str, Field] = {}
    for key, value in zip(done.nodes[::2], done.nodes[1::2], strict=True):
        if not isinstance(key, Scalar):
            raise text_error([Problem(key.line, key.column, "a key is a plain text")])
        if key.text in fields:
            raise text_error([Problem(key.line, key.column, f"{key.text} is here a second time")])
        fields[key.text] = Field(key, value)
    return Mapping(tuple(fields.values()), line, column)


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    _refuse_tag(event)
    return Scalar(event.value, *_place(event.start_mark), quoted=event.style in {'"', "'"})


def _refuse_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
    if event.tag is not None or event.anchor is not None:
        raise text_error([_problem(event.start_mark, "anchors (&) and tags (!) have no meaning here")])


def _place(mark: _Mark | None) -> tuple[int, int]:
    """Line and column, from 1."""
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _problem(mark: _Mark | None, text: str) -> Problem:
    return Problem(*_place(mark), text)
