"""Tokens: what is well formed, who may make one, what a joiner checks, and how one is written down."""
# size: one format; its refusals share the token that they spoil

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from appliance.core import cose
from appliance.core.canonical import Cbor
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import MeshId, TokenId
from appliance.core.limits import LIMITS, Limits
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import Provider
from appliance.trust.signed import FOREVER_MS
from appliance.trust.tokens import (
    Binding,
    Endpoint,
    Pointer,
    Ticket,
    Token,
    check_time,
    check_token,
    encode_token,
    format_pointer,
    format_token,
    invites,
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
    APPROVER_BLOB,
    APPROVER_GRANT,
    AUTHORITY,
    CHAIN,
    GATEWAY,
    HOUR_MS,
    MESH,
    NOW_MS,
    OTHER_GATEWAY,
    OWNER,
    OWNER_BLOB,
    OWNER_GRANT,
    POINTER,
    ROBOT,
    SECRET,
    STRANGER,
    TOKEN,
    TOKEN_BLOB,
    VERIFY,
    fields_of,
    flipped,
    node,
    refusal,
    resigned,
)

TEXT = format_token(TOKEN_BLOB, SECRET)
SHORT = format_pointer(POINTER)
TICKET = Ticket(TOKEN_BLOB, SECRET, TOKEN)


# ---- the signed part


def test_a_signed_token_opens_to_what_was_signed() -> None:
    assert open_token(TOKEN_BLOB, VERIFY, APPROVER.public_key) == TOKEN == peek_token(TOKEN_BLOB)


def test_signing_again_changes_the_bytes_and_not_the_id() -> None:
    again = sign_token(TOKEN, APPROVER.sign)
    assert again != TOKEN_BLOB
    assert token_id(again) == token_id(TOKEN_BLOB) == hashlib.sha256(encode_token(TOKEN)).digest()


def test_the_payload_is_a_canonical_array_of_thirteen() -> None:
    assert fields_of(TOKEN_BLOB) == [
        1, MESH, node(APPROVER.public_key), grant_id(APPROVER_BLOB), lock_of(SECRET),
        [["gateway-1:7330", GATEWAY], ["[2001:db8::7]:7330", OTHER_GATEWAY]], ["line-1", "line-2"], "none", 3,
        ["key", hashlib.sha256(ROBOT.public_key).digest()], GATEWAY, NOW_MS - HOUR_MS, NOW_MS + HOUR_MS,
    ]  # fmt: skip


def test_what_a_token_may_leave_out_is_null() -> None:
    plain = replace(TOKEN, binding=None, redeemer=None, tags=())
    assert fields_of(sign_token(plain, APPROVER.sign))[6:11] == [[], "none", 3, None, None]
    assert peek_token(sign_token(plain, APPROVER.sign)) == plain


def test_the_lock_is_a_hash_of_the_secret_under_its_own_label() -> None:
    assert TOKEN.lock == hashlib.sha256(b"x0t/token-lock/1" + SECRET).digest()


GATEWAYS: list[Cbor] = [["gateway-1:7330", GATEWAY], ["[2001:db8::7]:7330", OTHER_GATEWAY]]
MALFORMED: list[tuple[str, int, Cbor]] = [
    ("another version", 0, 2),
    ("a version that is true", 0, True),
    ("a short mesh", 1, MESH[:-1]),
    ("a mesh as base64 text", 1, "A" * 43 + "="),
    ("a long issuer", 2, MESH + b"\0"),
    ("a short grant", 3, b""),
    ("no lock", 4, None),
    ("no gateway", 5, []),
    ("nine gateways", 5, [[f"gw-{n}:1", bytes([n] * 32)] for n in range(1, 10)]),
    ("a gateway twice", 5, [["gateway-1:7330", GATEWAY], ["gateway-2:7330", GATEWAY]]),
    ("a gateway without a key", 5, [["gateway-1:7330"]]),
    ("a gateway with more than a key", 5, [["gateway-1:7330", GATEWAY, 1]]),
    ("a gateway with a short id", 5, [["gateway-1:7330", GATEWAY[:-1]]]),
    ("a gateway without a port", 5, [["gateway-1", GATEWAY]]),
    ("a gateway at port 0", 5, [["gateway-1:0", GATEWAY]]),
    ("a gateway with a hostile name", 5, [["gw\x1b[31m:1", GATEWAY]]),
    ("a gateway with a long name", 5, [["g" * 255 + ":1", GATEWAY]]),
    ("tags out of order", 6, ["line-2", "line-1"]),
    ("a tag twice", 6, ["line-1", "line-1"]),
    ("what is no tag", 6, ["Line 1"]),
    ("an empty tag", 6, [""]),
    ("a long tag", 6, ["a" * 64]),
    ("too many tags", 6, [f"{number:03}" for number in range(65)]),
    ("tags that are no list", 6, "line-1"),
    ("an unknown level", 7, "tdx"),
    ("no level", 7, None),
    ("no use", 8, 0),
    ("a negative use", 8, -1),
    ("too many uses", 8, 10_001),
    ("uses that are true", 8, True),
    ("an unknown binding", 9, ["mac", bytes(32)]),
    ("a binding with a short digest", 9, ["ek", bytes(31)]),
    ("an empty binding", 9, []),
    ("a redeemer that is no gateway", 10, b"\3" * 32),
    ("a short redeemer", 10, GATEWAY[:-1]),
    ("a time before 1970", 11, -1),
    ("a time as text", 11, "2026"),
    ("an end before the beginning", 12, NOW_MS - HOUR_MS - 1),
    ("an end that no clock reaches", 12, FOREVER_MS + 1),
]


@pytest.mark.parametrize("at, value", [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_token_is_malformed_with(at: int, value: Cbor) -> None:
    change: dict[int, Cbor] = {10: None, at: value}  # a redeemer would be no gateway any more
    assert refusal(lambda: peek_token(resigned(TOKEN_BLOB, Domain.TOKEN, change))) == "token.malformed"


BOUNDS: list[tuple[str, Token]] = [
    ("eight gateways", replace(TOKEN, endpoints=tuple(Endpoint(f"g{n}:1", bytes([n] * 32)) for n in range(1, 9)))),
    ("two gateways at one place", replace(TOKEN, endpoints=(Endpoint("a:1", GATEWAY), Endpoint("a:1", OTHER_GATEWAY)))),
    ("a place of 256 characters", replace(TOKEN, endpoints=(Endpoint("g" * 254 + ":1", GATEWAY),))),
    ("the most tags", replace(TOKEN, tags=tuple(f"{number:02}" for number in range(64)))),
    ("the longest tag", replace(TOKEN, tags=("a" * 63,))),
    ("the most uses", replace(TOKEN, uses=10_000)),
    ("one moment", replace(TOKEN, not_before_ms=NOW_MS, not_after_ms=NOW_MS)),
    ("all of time", replace(TOKEN, not_before_ms=0, not_after_ms=FOREVER_MS)),
    ("a TPM", replace(TOKEN, level="tpm", binding=Binding("ek", bytes(32)))),
    ("an enclave and a serial number", replace(TOKEN, level="sgx", binding=Binding("serial", bytes(32)))),
]


@pytest.mark.parametrize("token", [row[1] for row in BOUNDS], ids=[row[0] for row in BOUNDS])
def test_a_token_may_have(token: Token) -> None:
    assert peek_token(sign_token(token, APPROVER.sign)) == token


BLOBS = [
    ("nothing", b""),
    ("no COSE", encode_token(TOKEN)),
    ("a field too few", cose.sign1(encode_token(TOKEN)[:-9], Domain.TOKEN, APPROVER.sign)),
    ("trailing bytes", TOKEN_BLOB + b"\0"),
    ("half", TOKEN_BLOB[: len(TOKEN_BLOB) // 2]),
    ("a payload that is a map", cose.sign1(b"\xa0", Domain.TOKEN, APPROVER.sign)),
    ("a grant", APPROVER_BLOB),
    ("more than the limit", cose.sign1(bytes(50_000), Domain.TOKEN, APPROVER.sign)),
]


@pytest.mark.parametrize("blob", [row[1] for row in BLOBS], ids=[row[0] for row in BLOBS])
def test_a_blob_is_no_token_that_is(blob: bytes) -> None:
    assert refusal(lambda: peek_token(blob)) == "token.malformed"


def test_nothing_malformed_is_signed() -> None:
    for token in (replace(TOKEN, uses=0), replace(TOKEN, tags=("b", "a")), replace(TOKEN, redeemer=bytes(32))):
        assert refusal(lambda token=token: sign_token(token, APPROVER.sign)) == "token.malformed"  # type: ignore[misc]


def test_a_token_under_another_label_does_not_verify() -> None:
    blob = cose.sign1(encode_token(TOKEN), Domain.GRANT, APPROVER.sign)
    assert refusal(lambda: open_token(blob, VERIFY, APPROVER.public_key)) == "token.signature"


def test_a_token_signed_by_another_key_than_its_issuers_does_not_verify() -> None:
    forged = sign_token(TOKEN, STRANGER.sign)
    assert refusal(lambda: open_token(forged, VERIFY, APPROVER.public_key)) == "token.signature"
    assert refusal(lambda: open_token(forged, VERIFY, STRANGER.public_key)) == "token.issuer"


def test_what_one_provider_signed_the_other_opens(liboqs: Provider, openssl: Provider) -> None:
    for signer, reader in ((liboqs, openssl), (openssl, liboqs)):
        key = signer.mldsa_keypair(bytes([42] * 32))
        assert key.public_key == APPROVER.public_key
        blob = sign_token(TOKEN, key.sign)
        assert open_token(blob, reader.mldsa_verify, key.public_key) == TOKEN
        assert check_token(blob, CHAIN, AUTHORITY.public_key, reader.mldsa_verify, NOW_MS) == TOKEN


# ---- who may make one

ALL_TAGS = replace(APPROVER_GRANT, scope=())
INVITES: list[tuple[str, Token, Grant]] = [
    ("an approver of the tags", TOKEN, APPROVER_GRANT),
    ("an approver of one tag of two", replace(TOKEN, tags=("line-2",)), APPROVER_GRANT),
    ("an approver of the whole mesh", TOKEN, ALL_TAGS),
    ("an approver of the whole mesh, without tags", replace(TOKEN, tags=()), ALL_TAGS),
    ("an owner", TOKEN, replace(ALL_TAGS, roles=(Role.OWNER,))),
    ("an approver without levels", TOKEN, replace(APPROVER_GRANT, delegate=0)),
    (
        "an approver, for as long as the grant holds",
        replace(TOKEN, not_before_ms=APPROVER_GRANT.not_before_ms, not_after_ms=APPROVER_GRANT.not_after_ms),
        APPROVER_GRANT,
    ),
]


@pytest.mark.parametrize("token, grant", [row[1:] for row in INVITES], ids=[row[0] for row in INVITES])
def test_may_invite(token: Token, grant: Grant) -> None:
    invites(token, grant)


REFUSED: list[tuple[str, str, Token, Grant]] = [
    ("another mesh's approver", "token.mesh", TOKEN, replace(APPROVER_GRANT, mesh=bytes(32))),
    ("somebody else", "token.issuer", TOKEN, replace(APPROVER_GRANT, subject=bytes(32))),
    ("an admin", "token.widens", TOKEN, replace(APPROVER_GRANT, roles=(Role.ADMIN,))),
    ("a member", "token.widens", TOKEN, replace(APPROVER_GRANT, roles=(Role.MEMBER,))),
    ("an approver of one tag of two", "token.widens", TOKEN, replace(APPROVER_GRANT, scope=("line-1",))),
    ("an approver of tags, for the whole mesh", "token.widens", replace(TOKEN, tags=()), APPROVER_GRANT),
    (
        "an approver before the grant",
        "token.widens",
        replace(TOKEN, not_before_ms=APPROVER_GRANT.not_before_ms - 1),
        APPROVER_GRANT,
    ),
    (
        "an approver after the grant",
        "token.widens",
        replace(TOKEN, not_after_ms=APPROVER_GRANT.not_after_ms + 1),
        APPROVER_GRANT,
    ),
]


@pytest.mark.parametrize("key, token, grant", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_may_not_invite(key: str, token: Token, grant: Grant) -> None:
    assert refusal(lambda: invites(token, grant)) == key


# ---- when

SLOW_MS = LIMITS.clock_ahead_ms


@pytest.mark.parametrize(
    "now_ms, key",
    [
        (TOKEN.not_before_ms - SLOW_MS - 1, "token.early"),
        (TOKEN.not_before_ms - SLOW_MS, None),
        (TOKEN.not_before_ms, None),
        (TOKEN.not_after_ms, None),
        (TOKEN.not_after_ms + 1, "token.expired"),
    ],
)
def test_a_token_counts_in_its_time_and_for_a_slow_clock_a_little_before(now_ms: int, key: str | None) -> None:
    if key is None:
        check_time(TOKEN, now_ms)
    else:
        assert refusal(lambda: check_time(TOKEN, now_ms)) == key


def test_the_tolerance_is_a_limit() -> None:
    before = TOKEN.not_before_ms - 2
    assert refusal(lambda: check_time(TOKEN, before, Limits(clock_ahead_ms=1))) == "token.early"
    check_time(TOKEN, before, Limits(clock_ahead_ms=2))


def test_a_refusal_for_the_time_names_both_clocks_and_how_to_set_one() -> None:
    token = replace(TOKEN, not_before_ms=1_790_000_000_000, not_after_ms=1_790_003_600_000)
    with pytest.raises(
        Exception, match=r"from 2026-09-21T14:13:20Z, and it was judged at 2020-09-13T12:26:40Z"
    ) as early:
        check_time(token, 1_600_000_000_000)
    with pytest.raises(Exception, match=r"ended at 2026-09-21T15:13:20Z, and it was judged at 2026-09-22T") as late:
        check_time(token, 1_790_080_000_000)
    for caught in (early, late):
        assert "timedatectl set-ntp true" in getattr(caught.value, "hint", "")


# ---- what a joiner checks


@dataclass
class Offer:
    """What a joiner has before it, all of it in order."""

    token: Ticket | bytes = TOKEN_BLOB
    chain: tuple[bytes, ...] = CHAIN
    authority: bytes = AUTHORITY.public_key
    now_ms: int = NOW_MS

    def check(self) -> Token:
        """As a joiner does."""
        return check_token(self.token, self.chain, self.authority, VERIFY, self.now_ms)


def test_a_joiner_accepts_a_token_by_an_approver_of_its_tags() -> None:
    assert Offer().check() == TOKEN
    assert Offer(TICKET).check() == TOKEN


def _by_the_owner(token: Token) -> bytes:
    return sign_token(replace(token, issuer=OWNER_GRANT.subject, grant=grant_id(OWNER_BLOB)), OWNER.sign)


def test_a_joiner_accepts_a_token_by_who_holds_its_grant_from_the_authority() -> None:
    assert Offer(_by_the_owner(TOKEN), (OWNER_BLOB,)).check().issuer == OWNER_GRANT.subject


MEMBER_BLOB = sign_grant(replace(APPROVER_GRANT, roles=(Role.MEMBER,)), OWNER.sign)
ANOTHER_BLOB = sign_grant(replace(APPROVER_GRANT, nonce=b"\1" * 16), OWNER.sign)
FLIPPED = flipped(TOKEN_BLOB, 8 * len(TOKEN_BLOB) - 1)

OFFERS: list[tuple[str, str, Offer]] = [
    ("of another mesh", "token.mesh", Offer(authority=STRANGER.public_key)),
    ("without a chain", "grant.malformed", Offer(chain=())),
    ("with a chain that does not reach the authority", "grant.issuer", Offer(chain=(APPROVER_BLOB,))),
    ("with a chain of somebody else", "token.issuer", Offer(chain=(OWNER_BLOB,))),
    ("with another grant of its issuer", "token.issuer", Offer(chain=(ANOTHER_BLOB, OWNER_BLOB))),
    (
        "by a member",
        "token.widens",
        Offer(sign_token(replace(TOKEN, grant=grant_id(MEMBER_BLOB)), APPROVER.sign), (MEMBER_BLOB, OWNER_BLOB)),
    ),
    ("for tags outside the scope", "token.widens", Offer(sign_token(replace(TOKEN, tags=("x",)), APPROVER.sign))),
    ("with other tags than were signed", "token.signature", Offer(sign_token(replace(TOKEN, tags=()), STRANGER.sign))),
    ("with a bit flipped in the signature", "token.signature", Offer(FLIPPED)),
    ("before its time", "token.early", Offer(now_ms=NOW_MS - 2 * HOUR_MS)),
    ("after its time", "token.expired", Offer(now_ms=NOW_MS + 2 * HOUR_MS)),
    ("that is none", "token.malformed", Offer(APPROVER_BLOB)),
]


@pytest.mark.parametrize("key, offer", [row[1:] for row in OFFERS], ids=[row[0] for row in OFFERS])
def test_a_joiner_refuses_a_token(key: str, offer: Offer) -> None:
    assert refusal(offer.check) == key


# ---- as text


def test_a_token_reads_back_from_its_text() -> None:
    assert parse_token(TEXT) == TICKET == parse_credential(TEXT)
    assert TEXT.startswith("x0t1.")
    assert not set(TEXT) & set("=+/ \n")


def test_a_short_form_reads_back_from_its_text_and_fits_a_small_qr_code() -> None:
    assert parse_pointer(SHORT) == POINTER == parse_credential(SHORT)
    assert SHORT.startswith("x0tj1.")
    assert len(SHORT) <= 180  # version 9-M: 53 modules a side


def test_white_space_and_line_breaks_do_not_matter() -> None:
    folded = "\r\n".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60))
    assert parse_token(f"\n  {folded}\t\N{NO-BREAK SPACE}\n") == TICKET
    assert parse_credential(f"\n {SHORT[:50]} {SHORT[50:]}\n") == POINTER


def _body(text: str) -> bytes:
    digits = text.partition(".")[2]
    return base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))


def _written(prefix: str, content: bytes) -> str:
    check = hashlib.sha256(prefix.encode() + content).digest()[:4]
    return prefix + base64.urlsafe_b64encode(content + check).decode().rstrip("=")


def test_the_texts_are_as_the_module_says() -> None:
    assert _written("x0t1.", SECRET + TOKEN_BLOB) == TEXT
    assert _written("x0tj1.", MESH + GATEWAY + POINTER.code + POINTER.address.encode()) == SHORT


TEXTS = [
    ("nothing", ""),
    ("a prefix alone", "x0t1."),
    ("another version", TEXT.replace("x0t1.", "x0t2.")),
    ("an upper-case prefix", TEXT.replace("x0t1.", "X0T1.")),
    ("upper case", TEXT.upper()),
    ("half", TEXT[: len(TEXT) // 2]),
    ("a character less", TEXT[:-1]),
    ("a character more", TEXT + "A"),
    ("twice", TEXT + TEXT),
    ("padding", TEXT + "="),
    ("plain base64", TEXT[:9] + "+/" + TEXT[11:]),
    ("a character beyond ASCII", TEXT[:-1] + "\N{FULLWIDTH DIGIT ONE}"),
    ("the short form", SHORT),
    ("a changed secret", _written("x0t1.", bytes(32) + TOKEN_BLOB)),
    ("too long", "x0t1." + "A" * 20_000),
    ("a mebibyte", "x0t1." + "A" * (1 << 20)),
]


@pytest.mark.parametrize("text", [row[1] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_text_is_no_token_that_is(text: str) -> None:
    assert refusal(lambda: parse_token(text)) == "token.text"


def test_a_text_with_the_right_checksum_over_what_is_no_token_is_malformed() -> None:
    for content in (b"", SECRET, SECRET + APPROVER_BLOB, TOKEN_BLOB):
        assert refusal(lambda content=content: parse_token(_written("x0t1.", content))) == "token.malformed"  # type: ignore[misc]


def test_a_text_and_a_signed_token_are_bounded_before_they_are_read() -> None:
    for at_most, key in ((len(TEXT), None), (len(TEXT) - 1, "token.text")):
        bound = Limits(guest_message_bytes=at_most)
        assert _outcome(lambda bound=bound: parse_token(TEXT, bound)) == key  # type: ignore[misc]
        assert _outcome(lambda bound=bound: parse_token(f"\n{TEXT}\n", bound)) == key  # type: ignore[misc]
    for at_most, key in ((len(TOKEN_BLOB), None), (len(TOKEN_BLOB) - 1, "token.malformed")):
        bound = Limits(entry_bytes=at_most)
        assert _outcome(lambda bound=bound: peek_token(TOKEN_BLOB, bound)) == key  # type: ignore[misc]
        assert _outcome(lambda bound=bound: parse_token(TEXT, bound)) == key  # type: ignore[misc]


def _outcome(call: Callable[[], object]) -> str | None:
    """The key of the error that *call* raises, or None."""
    try:
        call()
    except X0tError as err:
        return err.key
    return None


SHORTS = [
    ("nothing", ""),
    ("a token", TEXT),
    ("no content", _written("x0tj1.", b"")),
    ("no address", _written("x0tj1.", bytes(80))),
    ("a hostile address", _written("x0tj1.", bytes(80) + b"gw\x1b:1")),
    ("an address beyond ASCII", _written("x0tj1.", bytes(80) + "gé:1".encode())),
    ("an address without a port", _written("x0tj1.", bytes(80) + b"gateway-1")),
    ("a long address", _written("x0tj1.", bytes(80) + b"g" * 255 + b":1")),
    ("another checksum", _written("x0tj1.", _body(SHORT)[:-4])[:-2] + "AA"),
    ("a token's checksum", _written("x0t1.", _body(SHORT)[:-4]).replace("x0t1.", "x0tj1.")),
]


@pytest.mark.parametrize("text", [row[1] for row in SHORTS], ids=[row[0] for row in SHORTS])
def test_a_text_is_no_short_form_that_is(text: str) -> None:
    assert refusal(lambda: parse_pointer(text)) == "token.text"


def test_no_error_and_no_representation_shows_a_secret() -> None:
    assert repr(TICKET) == f"Ticket({TokenId(token_id(TOKEN_BLOB))}, ***)"
    assert repr(POINTER) == f"Pointer({MeshId(MESH)}, gateway-1.plant.example:7330, ***)"
    for text in {row[1] for row in (*TEXTS, *SHORTS)} - {TEXT, SHORT}:
        with pytest.raises(Exception, match="token") as caught:
            parse_credential(text)
        assert TEXT[5:40] not in str(caught.value)


LARGEST = replace(
    TOKEN,
    endpoints=tuple(Endpoint(f"{'g' * 250}:6553{n % 6}", bytes([n] * 32)) for n in range(1, 9)),
    redeemer=bytes([1] * 32),
    tags=tuple(f"{number:02}" + "a" * 61 for number in range(64)),
    uses=10_000,
    not_before_ms=FOREVER_MS,
    not_after_ms=FOREVER_MS,
)


def test_the_largest_token_still_fits_a_message_of_a_gateway_and_an_entry_of_a_batch() -> None:
    blob = sign_token(LARGEST, APPROVER.sign)
    text = format_token(blob, SECRET)
    assert parse_token(text).token == LARGEST
    assert len(text) + 16 < LIMITS.guest_message_bytes
    assert len(blob) < 10_400 < LIMITS.entry_bytes


def test_a_usual_token_is_of_the_size_that_the_documents_give() -> None:
    one = replace(TOKEN, endpoints=TOKEN.endpoints[:1], binding=None, redeemer=None, tags=("line-1",))
    blob = sign_token(one, APPROVER.sign)
    assert len(blob) == 3_545  # of which 3,309 are the signature
    assert len(format_token(blob, SECRET)) == 4_780


def test_a_pointer_and_a_ticket_compare_by_what_they_hold() -> None:
    assert Pointer(MESH, GATEWAY, POINTER.address, POINTER.code) == POINTER
    assert parse_token(TEXT) != replace(TICKET, secret=bytes(32))
