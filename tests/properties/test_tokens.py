"""Laws of tokens: every form reads back, no altered one is taken, and no chain invites for more than it holds.

What a grant permits is modelled as points (role, tag or whole mesh, time), so the law does not repeat the code.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.core.limits import LIMITS
from appliance.core.names import HOST_PORT, TAG, is_host_port, is_tag
from appliance.trust.grants import Grant, Role, active_at, check_chain, grant_id, implied_roles, sign_grant
from appliance.trust.signed import FOREVER_MS
from appliance.trust.tokens import (
    Binding,
    Endpoint,
    Pointer,
    Ticket,
    Token,
    check_token,
    format_pointer,
    format_token,
    lock_of,
    open_token,
    parse_credential,
    parse_pointer,
    parse_token,
    peek_token,
    sign_token,
    token_id,
)
from tests.token_forge import (
    APPROVER,
    AUTHORITY,
    MESH,
    OWNER,
    POINTER,
    ROBOT,
    SECRET,
    TOKEN,
    TOKEN_BLOB,
    VERIFY,
    flipped,
)

ids = st.binary(min_size=32, max_size=32)
tags = st.from_regex(TAG, fullmatch=True)
tag_sets = st.sets(tags, max_size=LIMITS.tags_per_node).map(lambda found: tuple(sorted(found)))
places = st.from_regex(HOST_PORT, fullmatch=True).filter(lambda text: len(text) <= LIMITS.text_bytes)
moments = st.integers(0, FOREVER_MS)


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    """Any token that is well formed."""
    nodes = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    not_before_ms, not_after_ms = sorted([draw(moments), draw(moments)])
    return Token(
        mesh=draw(ids),
        issuer=node_id(APPROVER.public_key).raw,
        grant=draw(ids),
        lock=lock_of(SECRET),
        endpoints=tuple(Endpoint(draw(places), node) for node in nodes),
        tags=draw(tag_sets),
        level=draw(st.sampled_from(["none", "tpm", "sgx"])),
        uses=draw(st.integers(1, 10_000)),
        binding=draw(st.none() | st.builds(Binding, st.sampled_from(["ek", "key", "serial"]), ids)),
        redeemer=draw(st.none() | st.sampled_from(nodes)),
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
    )


@given(tokens())
def test_every_token_reads_back_from_its_signed_form_and_from_its_text(token: Token) -> None:
    event(f"{len(token.endpoints)} gateways")
    blob = sign_token(token, APPROVER.sign)
    assert open_token(blob, VERIFY, APPROVER.public_key) == token
    text = format_token(blob, SECRET)
    assert parse_token(text) == Ticket(blob, SECRET, token)
    assert len(text) <= LIMITS.guest_message_bytes
    assert text.isascii()


@given(ids, ids, places, st.binary(min_size=16, max_size=16))
def test_every_short_form_reads_back_from_its_text(mesh: bytes, node: bytes, address: str, code: bytes) -> None:
    pointer = Pointer(mesh, node, address, code)
    assert parse_credential(format_pointer(pointer)) == pointer


@given(st.integers(0, 8 * len(TOKEN_BLOB) - 1))
@example(8 * len(TOKEN_BLOB) - 1)
@example(0)
def test_no_token_opens_of_which_a_bit_wasflipped(bit: int) -> None:
    blob = flipped(TOKEN_BLOB, bit)
    try:
        said = peek_token(blob)
    except X0tError as err:
        event(f"not read: {err.key}")
    else:
        event("another signature" if said == TOKEN else "another id")
        assert said == TOKEN or token_id(blob) != token_id(TOKEN_BLOB)
    with pytest.raises(X0tError):
        open_token(blob, VERIFY, APPROVER.public_key)


TEXT, SHORT = format_token(TOKEN_BLOB, SECRET), format_pointer(POINTER)


@given(st.integers(0, 8 * len(TEXT) - 1))
def test_no_text_of_a_token_is_taken_of_which_a_bit_wasflipped(bit: int) -> None:
    with pytest.raises(X0tError):
        parse_credential(flipped(TEXT.encode(), bit).decode("latin-1"))


@given(st.integers(0, 8 * len(SHORT) - 1))
def test_no_text_of_a_short_form_is_taken_of_which_a_bit_wasflipped(bit: int) -> None:
    with pytest.raises(X0tError):
        parse_credential(flipped(SHORT.encode(), bit).decode("latin-1"))


@given(st.text(max_size=200) | st.text("x0tj1.AQgw-_= \n", max_size=300).map(lambda tail: f"x0tj1.{tail}"))
def test_no_text_crashes_the_reader(text: str) -> None:
    for parse in (parse_token, parse_pointer, parse_credential):
        try:
            parse(text)
        except X0tError as err:
            event(err.key)
        else:
            raise AssertionError("random text was accepted")


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: TOKEN_BLOB[:60] + tail))
def test_no_bytes_crash_the_check(blob: bytes) -> None:
    try:
        check_token(blob, (), AUTHORITY.public_key, VERIFY, 0)
    except X0tError as err:
        event(err.key)
    else:
        raise AssertionError("random bytes were accepted")


@given(st.text(max_size=80))
def test_a_tag_and_a_place_are_short_plain_words(text: str) -> None:
    if is_tag(text) or is_host_port(text):
        assert text.isascii()
        assert text.isprintable()
        assert text == text.lower() == "".join(text.split())


# ---- whom a joiner believes

UNIT_MS = 2 * LIMITS.clock_ahead_ms  # of the times below: further apart than a clock may be slow
HOLDERS = (OWNER, APPROVER, ROBOT)
TAGS = ("a", "b")
ROLES = (Role.OWNER, Role.OWNER, Role.APPROVER, Role.ADMIN, Role.MEMBER)

scopes = st.sets(st.sampled_from(TAGS)).map(lambda found: tuple(sorted(found)))
spans = st.lists(st.integers(0, 5), min_size=2, max_size=2).map(sorted)
rarely = st.sampled_from([False] * 9 + [True])


@st.composite
def chains(draw: st.DrawFn) -> list[bytes]:
    """A chain of grants (leaf first), mostly in order, in which each holder signs for the next."""
    upper: Grant | None = None
    blobs: list[bytes] = []
    for number in range(draw(st.integers(1, len(HOLDERS)))):
        subject = HOLDERS[number].public_key
        span = draw(st.just([0, 5]) | spans)
        grant = Grant(
            mesh=MESH,
            issuer=upper.subject if upper else MESH,
            subject=node_id(subject).raw,
            subject_key=subject,
            roles=(draw(st.sampled_from(ROLES)),),
            scope=draw(st.just(upper.scope if upper else ()) | scopes),
            delegate=len(HOLDERS) - number,
            not_before_ms=span[0] * UNIT_MS,
            not_after_ms=span[1] * UNIT_MS,
            parent=grant_id(blobs[0]) if blobs else None,
            nonce=bytes(16),
        )
        signer = AUTHORITY if number == 0 or draw(rarely) else HOLDERS[number - 1]
        blobs.insert(0, sign_grant(grant, signer.sign))
        upper = grant
    return blobs


def _permits(grant: Grant) -> set[tuple[Role, str | None, int]]:
    """Every (role, tag, time) that the grant permits; the tag None is the whole mesh."""
    reach: list[str | None] = [*grant.scope] if grant.scope else [None, *TAGS]
    return {
        (role, tag, time)
        for role in implied_roles(grant.roles)
        for tag in reach
        for time in range(6)
        if active_at(grant, time * UNIT_MS)
    }


def _needs(token: Token) -> set[tuple[Role, str | None, int]]:
    """What the issuer of a token must be permitted."""
    span = range(token.not_before_ms // UNIT_MS, token.not_after_ms // UNIT_MS + 1)
    whole: list[str | None] = [*token.tags] if token.tags else [None]
    return {(Role.APPROVER, tag, time) for tag in whole for time in span}


class Invitation(NamedTuple):
    """What a holder invites to, when a joiner looks at it, and in which ways it is wrong."""

    tags: tuple[str, ...]
    span: list[int]
    now: int
    is_forged: bool
    rests_on_another: bool


invitations = st.builds(
    Invitation,
    tags=scopes,
    span=st.just([0, 5]) | spans,
    now=st.integers(-1, 6),
    is_forged=rarely,
    rests_on_another=rarely,
)


@given(chains(), invitations)
def test_a_joiner_takes_a_token_exactly_if_its_chain_holds_permits_it_and_it_is_in_its_time(
    chain: list[bytes], drawn: Invitation
) -> None:
    holder = HOLDERS[len(chain) - 1]
    token = replace(
        TOKEN,
        issuer=node_id(holder.public_key).raw,
        grant=bytes(32) if drawn.rests_on_another else grant_id(chain[0]),
        tags=drawn.tags,
        not_before_ms=drawn.span[0] * UNIT_MS,
        not_after_ms=drawn.span[1] * UNIT_MS,
    )
    try:
        leaf = check_chain(chain, MESH, AUTHORITY.public_key, VERIFY)
        holds = _needs(token) <= _permits(leaf)
        why = "the chain holds" if holds else "the issuer may not"
    except X0tError as err:
        holds, why = False, err.key
    is_whole = not drawn.is_forged and not drawn.rests_on_another
    expected = holds and is_whole and drawn.span[0] <= drawn.now <= drawn.span[1]
    blob = sign_token(token, AUTHORITY.sign if drawn.is_forged else holder.sign)
    try:
        checked = check_token(blob, chain, AUTHORITY.public_key, VERIFY, drawn.now * UNIT_MS) == token
        outcome = "accepted"
    except X0tError as err:
        checked, outcome = False, err.key
    event(f"{why}: {outcome}")
    assert checked == expected
