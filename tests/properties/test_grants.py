"""Laws of grants: no chain ever permits what one of its links does not, and no altered grant verifies.

What a grant permits is modelled as points (role, tag or whole mesh, time), so the law does not repeat the code.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core import cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import mesh_id, node_id
from appliance.core.limits import LIMITS
from appliance.trust.grants import (
    Grant,
    Role,
    active_at,
    check_chain,
    encode_grant,
    grant_id,
    implied_roles,
    narrows,
    open_grant,
    sign_grant,
)
from appliance.trust.pqc import provider

PROVIDER = provider("auto")
KEYS = [PROVIDER.mldsa_keypair(bytes([number] * 32)) for number in range(6)]  # the first is the authority
AUTHORITY = KEYS[0]
MESH = mesh_id(AUTHORITY.public_key).raw
TAGS = ("a", "b", "c")
TIMES = range(6)  # small, so that edges meet

roles = st.sets(st.sampled_from(Role), min_size=1).map(lambda found: tuple(sorted(found)))
scopes = st.sets(st.sampled_from(TAGS)).map(lambda found: tuple(sorted(found)))
spans = st.lists(st.sampled_from(TIMES), min_size=2, max_size=2).map(sorted)


class Link(NamedTuple):
    """One step of a chain as drawn: what to change of the honest narrowest child, and whether to cheat."""

    roles: tuple[Role, ...]
    scope: tuple[str, ...]
    span: list[int]
    delegate: int
    inherit: frozenset[str]  # fields taken from the parent instead, so that valid chains are common
    signer: int  # 0 is the holder; another signs in its place
    parent: int  # 0 is the true parent; else a link further up, or none


links = st.builds(
    Link,
    roles=roles,
    scope=scopes,
    span=spans,
    delegate=st.sampled_from([0, 1, 2, 3, 3, 3, 4]),
    inherit=st.sets(st.sampled_from(["roles", "scope", "span", "delegate"])).map(frozenset)
    | st.just(frozenset({"roles", "scope", "span", "delegate"})),
    signer=st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]),
    parent=st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]),
)


def _child(link: Link, number: int, above: list[Grant], blobs: list[bytes]) -> Grant:
    """The grant of a link below *above* (root first)."""
    subject = KEYS[number + 1].public_key
    upper = above[-1] if above else None
    take = link.inherit if upper else frozenset[str]()
    span = [upper.not_before_ms, upper.not_after_ms] if upper and "span" in take else link.span
    true_parent = blobs[-1 - link.parent] if link.parent < len(blobs) else None
    return Grant(
        mesh=MESH,
        issuer=upper.subject if upper and true_parent else MESH,
        subject=node_id(subject).raw,
        subject_key=subject,
        roles=upper.roles if upper and "roles" in take else link.roles,
        scope=upper.scope if upper and "scope" in take else link.scope,
        delegate=max(upper.delegate - 1, 0) if upper and "delegate" in take else link.delegate,
        not_before_ms=span[0],
        not_after_ms=span[1],
        parent=grant_id(true_parent) if upper and true_parent else None,
        nonce=bytes(16),
    )


def _permits(grant: Grant) -> set[tuple[Role, str | None, int]]:
    """Every (role, tag, time) that the grant permits; the tag None is the whole mesh."""
    reach: list[str | None] = [*grant.scope] if grant.scope else [None, *TAGS]
    return {
        (role, tag, time)
        for role in implied_roles(grant.roles)
        for tag in reach
        for time in TIMES
        if active_at(grant, time)
    }


@given(st.lists(links, min_size=1, max_size=5))
def test_whatever_the_chain_its_leaf_permits_nothing_that_a_link_above_does_not(drawn: list[Link]) -> None:
    grants: list[Grant] = []
    blobs: list[bytes] = []
    for number, link in enumerate(drawn):
        grant = _child(link, number, grants, blobs)
        blobs.append(sign_grant(grant, KEYS[(number + link.signer) % len(KEYS)].sign))
        grants.append(grant)
    try:
        leaf = check_chain(blobs[::-1], MESH, AUTHORITY.public_key, PROVIDER.mldsa_verify)
    except X0tError as err:
        event(f"refused: {err.key}")
        return
    event(f"accepted: {len(drawn)} links")
    assert leaf == grants[-1]
    assert len(grants) <= LIMITS.grant_depth
    for upper, lower in pairwise(grants):
        assert _permits(lower) <= _permits(upper)
        assert lower.delegate < upper.delegate
        assert lower.issuer == upper.subject
    assert all(link.signer == 0 for link in drawn)


@st.composite
def _honest(draw: st.DrawFn, at_least: int = 1) -> list[Grant]:
    """A chain (root first) of which every link gives a part of what it holds; the parents' ids are not filled in."""
    chain = [_child(draw(links)._replace(delegate=3), 0, [], [])]
    while len(chain) < LIMITS.grant_depth and chain[-1].delegate:
        if len(chain) >= at_least and not draw(st.integers(0, 4)):
            break
        upper, key = chain[-1], KEYS[len(chain) + 1].public_key
        held = sorted(implied_roles(upper.roles))
        span = sorted(draw(st.integers(upper.not_before_ms, upper.not_after_ms)) for _ in range(2))
        lower = replace(
            upper,
            issuer=upper.subject,
            subject=node_id(key).raw,
            subject_key=key,
            roles=tuple(sorted(draw(st.sets(st.sampled_from(held), min_size=1)))),
            scope=tuple(sorted(draw(st.sets(st.sampled_from(upper.scope or TAGS), min_size=1)))),
            delegate=draw(st.integers(0, upper.delegate - 1) | st.just(upper.delegate - 1)),
            not_before_ms=span[0],
            not_after_ms=span[1],
        )
        chain.append(lower)
    return chain


def _signed(chain: list[Grant]) -> tuple[Grant, list[bytes]]:
    """The leaf and the blobs (leaf first) of a chain (root first) in which each link is signed by its holder."""
    blobs: list[bytes] = []
    for number, grant in enumerate(chain):
        grant = replace(grant, parent=grant_id(blobs[0]) if blobs else None)
        blobs.insert(0, sign_grant(grant, KEYS[number].sign))
    return replace(chain[-1], parent=grant_id(blobs[1]) if len(blobs) > 1 else None), blobs


@given(_honest())
def test_a_chain_whose_links_give_a_part_of_what_they_hold_is_accepted(chain: list[Grant]) -> None:
    event(f"{len(chain)} links")
    leaf, blobs = _signed(chain)
    assert check_chain(blobs, MESH, AUTHORITY.public_key, PROVIDER.mldsa_verify) == leaf


CHEATS: dict[str, Callable[[Grant, Grant], Grant]] = {
    "roles": lambda lower, upper: replace(lower, roles=tuple(sorted(Role))),
    "scope": lambda lower, upper: replace(lower, scope=()),
    "beginning": lambda lower, upper: replace(lower, not_before_ms=max(upper.not_before_ms - 1, 0)),
    "end": lambda lower, upper: replace(lower, not_after_ms=upper.not_after_ms + 1),
    "levels": lambda lower, upper: replace(lower, delegate=upper.delegate),
}


@given(_honest(at_least=2), st.sampled_from(sorted(CHEATS)), st.integers(0, 9))
def test_one_link_that_gives_more_than_it_holds_spoils_the_chain(chain: list[Grant], cheat: str, at: int) -> None:
    at = 1 + at % (len(chain) - 1)
    chain[at] = CHEATS[cheat](chain[at], chain[at - 1])
    assume(chain[at].delegate == chain[at - 1].delegate or not _permits(chain[at]) <= _permits(chain[at - 1]))
    event(cheat)
    _, blobs = _signed(chain)
    with pytest.raises(X0tError) as caught:
        check_chain(blobs, MESH, AUTHORITY.public_key, PROVIDER.mldsa_verify)
    assert caught.value.key == "grant.widens"


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Grant, Grant]:
    """A parent and a child whose only fault, if any, is what they permit."""
    upper = _child(draw(links)._replace(parent=0), 0, [], [])
    span = draw(spans)
    lower = replace(
        upper,
        issuer=upper.subject,
        subject=node_id(KEYS[2].public_key).raw,
        subject_key=KEYS[2].public_key,
        roles=draw(roles),
        scope=draw(scopes),
        delegate=draw(st.integers(0, 4)),
        not_before_ms=span[0],
        not_after_ms=span[1],
        parent=bytes(32),
    )
    return lower, upper


@given(_pairs())
def test_a_child_narrows_exactly_when_it_permits_no_more_and_has_a_level_less(pair: tuple[Grant, Grant]) -> None:
    lower, upper = pair
    expected = _permits(lower) <= _permits(upper) and lower.delegate < upper.delegate
    try:
        narrows(lower, upper)
        outcome = "narrows"
    except X0tError as err:
        outcome = err.key
    assert outcome == ("narrows" if expected else "grant.widens")


ROOT = _child(Link((Role.OWNER,), (), [0, 5], 3, frozenset(), 0, 0), 0, [], [])
SIGNED = sign_grant(ROOT, AUTHORITY.sign)


def _flip(blob: bytes, at: int, byte: int) -> bytes:
    at %= len(blob)
    return blob[:at] + bytes([blob[at] ^ (byte or 1)]) + blob[at + 1 :]


def _insert(blob: bytes, at: int, byte: int) -> bytes:
    return blob[: at % len(blob)] + bytes([byte]) + blob[at % len(blob) :]


def _delete(blob: bytes, at: int, byte: int) -> bytes:
    at %= len(blob)
    return blob[:at] + blob[at + 1 + byte % 8 :]


def _move(blob: bytes, at: int, byte: int) -> bytes:
    """Swap what stands around a place: lengths stay, order does not."""
    at %= len(blob)
    end = min(len(blob), at + 2 + byte)
    return blob[:at] + blob[at:end][::-1] + blob[end:]


mutations = st.lists(
    st.tuples(
        st.sampled_from([_flip, _insert, _delete, _move]),
        st.integers(0, 200) | st.integers(0, len(SIGNED)) | st.integers(len(SIGNED) - 3400, len(SIGNED)),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


@given(mutations)
@example([(_flip, len(SIGNED) - 1, 1)])
@example([(_insert, 0, 0xD2)])
def test_no_altered_grant_opens(steps: list[tuple[Callable[[bytes, int, int], bytes], int, int]]) -> None:
    blob = SIGNED
    for step, at, byte in steps:
        blob = step(blob, at, byte) or b"\0"
    assume(blob != SIGNED)
    try:
        open_grant(blob, PROVIDER.mldsa_verify, AUTHORITY.public_key)
    except X0tError as err:
        event(err.key)
    else:
        raise AssertionError("an altered grant was accepted")


@given(
    st.sampled_from(
        [
            replace(ROOT, roles=(Role.ADMIN, Role.OWNER)),
            replace(ROOT, scope=("a",)),
            replace(ROOT, not_after_ms=6),
            replace(ROOT, not_before_ms=1),
            replace(ROOT, nonce=b"\1" * 16),
            replace(ROOT, subject=node_id(KEYS[2].public_key).raw, subject_key=KEYS[2].public_key),
        ]
    )
    | st.builds(lambda delegate: replace(ROOT, delegate=delegate), st.integers(0, 255).filter(lambda n: n != 3))
)
def test_no_well_formed_change_keeps_the_signature(changed: Grant) -> None:
    blob = cose.sign1(encode_grant(changed), Domain.GRANT, lambda _message, _context: cose.open1(SIGNED).signature)
    with pytest.raises(X0tError) as caught:
        open_grant(blob, PROVIDER.mldsa_verify, AUTHORITY.public_key)
    assert caught.value.key == "grant.signature"


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: SIGNED[:60] + tail))
def test_no_bytes_crash_the_check(blob: bytes) -> None:
    try:
        check_chain([blob], MESH, AUTHORITY.public_key, PROVIDER.mldsa_verify)
    except X0tError as err:
        event(err.key)
    else:
        raise AssertionError("random bytes were accepted")
