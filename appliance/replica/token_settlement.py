"""Settlement of tokens: which of the nodes that enrolled with a token it carries, and why it does not carry the others.

A token carries as many nodes as it has uses, those that come first in the fold; so islands that redeemed it without
seeing one another agree on the same ones once they meet. Its issuer's publication must have effect. It ends where an
approver retires it, and where its issuer loses the right to invite: what comes after that in the fold is not carried.
A function of the set of rows and marks that have effect, as they stand once the fold of a group is through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from appliance.replica.authority import Authority
from appliance.replica.marks import Key, covers
from appliance.replica.rows import EnrolmentRow, RetirementRow, SurplusRow, TokenRow
from appliance.replica.standings import IN
from appliance.replica.stores import View
from appliance.trust.grants import Role

SPENT: Final = "token.spent"
RETIRED: Final = "token.retired"
REVOKED: Final = "token.revoked"
VOID: Final = "token.void"
End = tuple[Key, str]


def key_of(row: EnrolmentRow | RetirementRow) -> Key:
    """The place of a row in the fold."""
    return (row.hlc, row.batch, row.entry)


def firsts(rows: Sequence[EnrolmentRow]) -> list[EnrolmentRow]:
    """The first enrolment of each node with each token, in fold order: asking again is the same enrolment."""
    found: dict[tuple[bytes, bytes], EnrolmentRow] = {}
    for row in sorted(rows, key=key_of):
        found.setdefault((row.token, row.node), row)
    return list(found.values())


def surplus(view: View, authority: Authority, token: bytes) -> list[SurplusRow]:
    """The enrolments that a token does not carry."""
    published = view.select(TokenRow, "token", token)
    end = end_of(view, authority, published[0]) if published else None
    if published and end is None and view.enrolled(token) <= published[0].uses:
        return []  # as it mostly is
    return list(_surplus(view.select(EnrolmentRow, "token", token), published[0].uses if published else None, end))


def _surplus(rows: Sequence[EnrolmentRow], uses: int | None, end: End | None) -> Iterator[SurplusRow]:
    carried, winner = 0, None
    for row in firsts(rows):
        if uses is None:
            yield SurplusRow(row.token, row.node, VOID, None)
        elif end is not None and key_of(row) > end[0]:
            yield SurplusRow(row.token, row.node, end[1], None)
        elif carried == uses:
            yield SurplusRow(row.token, row.node, SPENT, winner)
        else:
            carried, winner = carried + 1, row.node


def end_of(view: View, authority: Authority, token: TokenRow) -> End | None:
    """Where in the fold a token ended, and why; None while it counts."""
    tags = frozenset(token.tags)
    ends: list[End] = [
        (key_of(row), RETIRED)
        for row in view.select(RetirementRow, "token", token.token)
        if covers(frozenset(row.scope), tags)
    ]
    grants = [mark for mark in authority.grants.get(token.issuer, ()) if mark.grant_id == token.grant_id]
    ends += [
        (revocation.key, REVOKED)
        for revocation in authority.revocations.get(token.issuer, ())
        if revocation.standing is IN
        and all(Role.APPROVER not in authority.left_by(revocation, grant) for grant in grants if grant.standing is IN)
    ]
    return min(ends, default=None)
