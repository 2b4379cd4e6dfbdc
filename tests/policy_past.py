"""Histories of a policy document made by hand: who changed what, and knowing which changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from appliance.policy.document import edit, parts
from appliance.policy.model import Policy, PolicyTest, Rule, content_id, encode_test
from appliance.policy.revisions import content_at
from appliance.replica.change_codec import Scalar
from appliance.replica.history import DocumentChange

START_MS = 1_700_000_000_000
AUTHORS = {name: hashlib.sha256(name.encode()).digest() for name in ("ada", "bob", "cleo")}


def policy_of(rules: Iterable[Rule] = (), tests: Iterable[PolicyTest] = ()) -> Policy:
    """A policy of these rules and tests."""
    return Policy(
        rules={rule.id: rule for rule in rules}, tests={content_id(encode_test(test)): test for test in tests}
    )


class Past:
    """A history that grows; each change is made a second after the one before."""

    def __init__(self) -> None:
        self.changes: list[DocumentChange] = []
        self._content: dict[str, Scalar] = {}

    def write(
        self,
        author: str,
        puts: Mapping[str, Scalar],
        deletes: Sequence[str] = (),
        knowing: Sequence[bytes] | None = None,
    ) -> bytes:
        """One change, which knows the last one where nothing else is said."""
        content = self._content
        last = (self.changes[-1].change,) if self.changes else ()
        made = _made(len(self.changes), author, last if knowing is None else tuple(knowing))
        made = replace(
            made,
            puts={key: value for key, value in puts.items() if content.get(key) != value},
            deletes=tuple(sorted(key for key in deletes if key in content)),
        )
        self.changes.append(made)
        content.update(made.puts)
        for key in made.deletes:
            del content[key]
        return made.change

    def edit(self, author: str, policy: Policy, knowing: Sequence[bytes] | None = None) -> bytes:
        """All the changes of an edit; of what one who knew these changes saw. The last change."""
        seen = self.content() if knowing is None else content_at(self.changes, knowing[-1])
        last = b""
        for part in parts(*edit(seen, policy), marker=len(self.changes).to_bytes(8, "big")):
            last = self.write(author, part.puts, part.deletes, [last] if last else knowing)
        return last

    def content(self) -> dict[str, Scalar]:
        """What the document holds now."""
        return dict(self._content)


def _made(number: int, author: str, deps: tuple[bytes, ...]) -> DocumentChange:
    change, batch = (hashlib.sha256(b"%s %d" % (what, number)).digest() for what in (b"change", b"batch"))
    hlc = (START_MS + 1_000 * number) << 16
    return DocumentChange(change, deps, AUTHORS[author], hlc, batch, {}, ())
