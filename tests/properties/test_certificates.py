"""Laws of node certificates and requests: each reads back, no altered one is taken, none gives more than is held."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.core.limits import LIMITS
from appliance.core.names import TAG
from appliance.trust.attachment import attach_statement
from appliance.trust.certificates import (
    NodeCertificate,
    as_grant,
    certificate_id,
    certifies,
    open_certificate,
    peek_certificate,
    sign_certificate,
)
from appliance.trust.enrolment import bind, enrolment_id, open_request, peek_request, request_id, sign_request
from appliance.trust.grants import Grant, Role, active_at, implied_roles, peek_grant, sign_grant
from appliance.trust.signed import FOREVER_MS
from tests.attach_rig import network_key, public
from tests.token_forge import (
    APPROVER,
    APPROVER_GRANT,
    CERTIFICATE,
    CERTIFICATE_BLOB,
    REQUEST,
    REQUEST_BLOB,
    ROBOT,
    VERIFY,
    flipped,
)

ids = st.binary(min_size=32, max_size=32)
letters = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
names = st.text(letters, min_size=1, max_size=64)
tags = st.from_regex(TAG, fullmatch=True)
tag_sets = st.sets(tags, max_size=LIMITS.tags_per_node).map(lambda found: tuple(sorted(found)))
moments = st.integers(0, FOREVER_MS)
spans = st.lists(moments, min_size=2, max_size=2).map(sorted)


@st.composite
def certificates(draw: st.DrawFn) -> NodeCertificate:
    """Any certificate that is well formed; the keys of key agreement are any bytes of their length."""
    not_before_ms, not_after_ms = draw(spans)
    return replace(
        CERTIFICATE,
        mesh=draw(ids),
        kem_key=draw(st.binary(min_size=32, max_size=32)) * 37,
        mesh_key=draw(ids),
        tunnel_key=draw(ids),
        name=draw(names),
        tags=draw(tag_sets),
        level=draw(st.sampled_from(["none", "tpm", "sgx"])),
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        parent=draw(ids),
        enrolment=draw(st.none() | ids),
        nonce=draw(st.binary(min_size=16, max_size=16)),
    )


@given(certificates())
def test_every_certificate_reads_back_and_stands_for_a_well_formed_grant(certificate: NodeCertificate) -> None:
    blob = sign_certificate(certificate, APPROVER.sign)
    assert open_certificate(blob, VERIFY, APPROVER.public_key) == certificate
    grant = as_grant(certificate)
    assert peek_grant(sign_grant(grant, APPROVER.sign)) == grant
    assert implied_roles(grant.roles) == {Role.MEMBER}
    assert grant.delegate == 0


@given(ids, ids, names, moments, st.binary(max_size=64))
def test_every_request_reads_back(mesh: bytes, token: bytes, name: str, created_ms: int, exporter: bytes) -> None:
    node = node_id(ROBOT.public_key).raw
    proof = network_key("robot").sign(attach_statement(mesh, node, public("robot")))
    request = replace(
        REQUEST, mesh=mesh, token=token, mesh_proof=proof, name=name, created_ms=created_ms, binding=bind(exporter)
    )
    blob = sign_request(request, ROBOT.sign)
    assert open_request(blob, VERIFY) == request
    assert enrolment_id(request.token, node) == enrolment_id(token, node_id(request.node_key).raw)


def _refused(blob: bytes, signed: bytes, peek: Callable[[bytes], object], identify: Callable[[bytes], bytes]) -> None:
    """What is read of an altered record is not the record; or it is, and only the signature was altered."""
    try:
        said = peek(blob)
    except X0tError as err:
        event(f"not read: {err.key}")
    else:
        event("another signature" if said == peek(signed) else "another id")
        assert (said == peek(signed)) == (identify(blob) == identify(signed))


@given(st.integers(0, 8 * len(CERTIFICATE_BLOB) - 1))
@example(8 * len(CERTIFICATE_BLOB) - 1)
def test_no_certificate_opens_of_which_a_bit_wasflipped(bit: int) -> None:
    blob = flipped(CERTIFICATE_BLOB, bit)
    _refused(blob, CERTIFICATE_BLOB, peek_certificate, certificate_id)
    with pytest.raises(X0tError):
        open_certificate(blob, VERIFY, APPROVER.public_key)


@given(st.integers(0, 8 * len(REQUEST_BLOB) - 1))
@example(8 * len(REQUEST_BLOB) - 1)
def test_no_request_opens_of_which_a_bit_wasflipped(bit: int) -> None:
    blob = flipped(REQUEST_BLOB, bit)
    _refused(blob, REQUEST_BLOB, peek_request, request_id)
    with pytest.raises(X0tError):
        open_request(blob, VERIFY)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: CERTIFICATE_BLOB[:60] + tail))
def test_no_bytes_crash_a_reader(blob: bytes) -> None:
    reads: list[Callable[[], object]] = [
        lambda: open_certificate(blob, VERIFY, APPROVER.public_key),
        lambda: open_request(blob, VERIFY),
    ]
    for read in reads:
        with pytest.raises(X0tError) as caught:
            read()
        event(caught.value.key)


# ---- who may give one: points (role, tag or whole mesh, time), so that the law does not repeat the code

TAGS = ("a", "b", "c")
TIMES = range(6)  # small, so that edges meet

scopes = st.sets(st.sampled_from(TAGS)).map(lambda found: tuple(sorted(found)))
short_spans = st.lists(st.sampled_from(TIMES), min_size=2, max_size=2).map(sorted)


def _permits(grant: Grant) -> set[tuple[Role, str | None, int]]:
    reach: list[str | None] = [*grant.scope] if grant.scope else [None, *TAGS]
    return {
        (role, tag, time)
        for role in implied_roles(grant.roles)
        for tag in reach
        for time in TIMES
        if active_at(grant, time)
    }


def _needs(certificate: NodeCertificate) -> set[tuple[Role, str | None, int]]:
    span = range(certificate.not_before_ms, certificate.not_after_ms + 1)
    whole: list[str | None] = [*certificate.tags] if certificate.tags else [None]
    return {(Role.APPROVER, tag, time) for tag in whole for time in span}


@given(
    st.sampled_from([*Role, *[Role.APPROVER] * 7]),
    st.just(()) | scopes,
    st.just([0, 5]) | short_spans,
    scopes,
    short_spans,
)
@example(Role.APPROVER, ("a", "b"), [1, 4], ("a",), [1, 4])
@example(Role.OWNER, (), [1, 4], (), [2, 3])
def test_a_certificate_is_given_exactly_by_who_approves_for_all_its_tags_and_all_its_time(
    role: Role, scope: tuple[str, ...], held: list[int], given_tags: tuple[str, ...], span: list[int]
) -> None:
    parent = replace(APPROVER_GRANT, roles=(role,), scope=scope, not_before_ms=held[0], not_after_ms=held[1])
    certificate = replace(CERTIFICATE, tags=given_tags, not_before_ms=span[0], not_after_ms=span[1])
    try:
        certifies(certificate, parent)
        outcome = "given"
    except X0tError as err:
        outcome = err.key
    event(outcome)
    assert outcome == ("given" if _needs(certificate) <= _permits(parent) else "certificate.widens")
