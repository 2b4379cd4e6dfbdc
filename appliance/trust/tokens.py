"""Tokens: signed invitations into a mesh, their text forms, and what a joiner checks before it says anything.

A token is a COSE_Sign1 under the label `x0t/token/1` and a secret of 32 bytes. The signed part holds only the hash of
the secret, so a log may hold it and nobody who reads the log can use it. As text:

    x0t1.  base64url(secret || signed part || checksum)                      the token
    x0tj1. base64url(mesh || node || code || address || checksum)            its short form, which a gateway exchanges

base64url (RFC 4648, section 5) has no padding; the checksum is the first 4 bytes of SHA-256 over prefix and content, so
that a mistyped token is no forged one. Pure. This module never says whether a token was spent or withdrawn, nor whether
its issuer still had the right to make it: the fold knows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from appliance.core.clock import moment_text
from appliance.core.domains import Domain
from appliance.core.errors import error
from appliance.core.ids import ID_BYTES, MeshId, TokenId, mesh_id, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.core.names import is_host_port, is_tag_set
from appliance.trust.grants import Grant, Role, check_chain, excess, grant_id
from appliance.trust.signed import Form, Hash, Ms, Sign, Verify, record_id

VERSION: Final = 1
TOKEN_PREFIX: Final = "x0t1."  # noqa: S105 - how the text of one begins
POINTER_PREFIX: Final = "x0tj1."
SECRET_BYTES: Final = 32
CODE_BYTES: Final = 16
_LOCK_LABEL: Final = b"x0t/token-lock/1"
_CHECK_BYTES: Final = 4

Level: TypeAlias = Literal["none", "tpm", "sgx"]  # of attestation


class Binding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The one device that may use a token."""

    kind: Literal["ek", "key", "serial"]
    digest: Hash  # of the EK's public area (TPM2B_PUBLIC), of the ML-DSA-65 public key, or of the serial number


class Endpoint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A gateway that takes requests."""

    address: str  # host:port
    node: Hash  # pins the key of its TLS certificate


class Token(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a token says. The constructor checks nothing: `sign_token` and `peek_token` do."""

    version: Literal[1] = VERSION
    mesh: Hash
    issuer: Hash  # node id of who signs
    grant: Hash  # id of the issuer's grant that lets it invite
    lock: Hash  # of the secret: see `lock_of`
    endpoints: Annotated[tuple[Endpoint, ...], msgspec.Meta(min_length=1, max_length=8)]  # who may redeem it, in order
    tags: tuple[str, ...]  # sorted, unique; those of the node that is admitted with it
    level: Level
    uses: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    binding: Binding | None
    redeemer: Hash | None  # the one of the endpoints that may redeem it; None: each of them
    not_before_ms: Ms  # inclusive
    not_after_ms: Ms  # inclusive


class Ticket(msgspec.Struct, frozen=True):
    """A token whole: who holds it may use it. Nobody has verified its signature yet."""

    blob: bytes
    secret: bytes
    token: Token  # what the blob says

    def __repr__(self) -> str:
        return f"Ticket({_name(self.token)}, ***)"


class Pointer(msgspec.Struct, frozen=True):
    """The short form of a token: where it can be fetched, by which key that place is known, and with which code."""

    mesh: bytes
    node: bytes
    address: str  # host:port
    code: bytes

    def __repr__(self) -> str:
        return f"Pointer({MeshId(self.mesh)}, {self.address}, ***)"


# ---- the signed part


def lock_of(secret: bytes) -> bytes:
    """What a token holds of its secret."""
    return hashlib.sha256(_LOCK_LABEL + secret).digest()


def token_id(blob: bytes) -> bytes:
    """The id of a signed token."""
    return record_id(blob)


def encode_token(token: Token) -> bytes:
    """The payload of a token: the only encoding that `peek_token` accepts."""
    return _FORM.encode(token)


def sign_token(token: Token, sign: Sign, limits: Limits = LIMITS) -> bytes:
    """The signed token; `token.malformed` for one that nobody would accept."""
    return _FORM.sign(token, sign, limits)


def peek_token(blob: bytes, limits: Limits = LIMITS) -> Token:
    """What a signed token says, before anybody has verified it; `token.malformed`."""
    return _FORM.peek(blob, limits)


def open_token(blob: bytes, verify: Verify, issuer_key: bytes, limits: Limits = LIMITS) -> Token:
    """The token if that key signed it; else `token.malformed`, `token.issuer` or `token.signature`."""
    token, signed = _FORM.read(blob, limits)
    if node_id(issuer_key).raw != token.issuer:
        raise error("token.issuer", token=_name(token))
    if not _FORM.is_signed_by(issuer_key, signed, verify):
        raise error("token.signature", token=_name(token))
    return token


def invites(token: Token, grant: Grant) -> None:
    """Raise unless *grant* lets its subject make *token*: `token.mesh`, `token.issuer`, `token.widens`.

    A token without tags is for the whole mesh, so an approver of some tags cannot make it. Whether `token.grant` is the
    id of *grant* is for the caller to check, for the id is of the signed form.
    """
    if token.mesh != grant.mesh:
        raise error("token.mesh", token=_name(token))
    if token.issuer != grant.subject:
        raise error("token.issuer", token=_name(token))
    what = excess(grant, (Role.APPROVER,), token.tags, token.not_before_ms, token.not_after_ms)
    if what is not None:
        raise error("token.widens", what=what)


def check_time(token: Token, now_ms: int, limits: Limits = LIMITS) -> None:
    """Raise `token.early` or `token.expired` at that time.

    A clock may be `limits.clock_ahead_ms` slow: a token is mostly used right after it was made, by a node whose clock
    nobody has set yet. It may not be fast.
    """
    if now_ms + limits.clock_ahead_ms < token.not_before_ms:
        raise error("token.early", start=moment_text(token.not_before_ms), now=moment_text(now_ms))
    if now_ms > token.not_after_ms:
        raise error("token.expired", end=moment_text(token.not_after_ms), now=moment_text(now_ms))


def check_token(
    token: Ticket | bytes, chain: Sequence[bytes], authority_key: bytes, verify: Verify, now_ms: int
) -> Token:
    """The token, checked up to the authority of its mesh: what a joiner does, who has no log.

    *chain* is that of the issuer's grants, leaf first. Raises `grant.*` as `check_chain` does, or `token.*`.
    """
    blob = token.blob if isinstance(token, Ticket) else token
    said = peek_token(blob)
    if said.mesh != mesh_id(authority_key).raw:
        raise error("token.mesh", token=_name(said))
    leaf = check_chain(chain, said.mesh, authority_key, verify)
    if said.grant != grant_id(chain[0]):
        raise error("token.issuer", token=_name(said))
    opened = open_token(blob, verify, leaf.subject_key)
    invites(opened, leaf)
    check_time(opened, now_ms)
    return opened


# ---- as text


def format_token(blob: bytes, secret: bytes) -> str:
    """The text of a token; whoever sees it can use it."""
    return _to_text(TOKEN_PREFIX, secret + blob)


def parse_token(text: str, limits: Limits = LIMITS) -> Ticket:
    """The token in a text, in which white space does not count; `token.text` or `token.malformed`."""
    content = _from_text(TOKEN_PREFIX, text, limits)
    secret, blob = content[:SECRET_BYTES], content[SECRET_BYTES:]
    token = peek_token(blob, limits)
    if not hmac.compare_digest(lock_of(secret), token.lock):
        raise error("token.text", reason="its secret is another token's")
    return Ticket(blob, secret, token)


def format_pointer(pointer: Pointer) -> str:
    """The text of a short form."""
    return _to_text(POINTER_PREFIX, pointer.mesh + pointer.node + pointer.code + pointer.address.encode())


def parse_pointer(text: str, limits: Limits = LIMITS) -> Pointer:
    """The short form in a text, in which white space does not count; `token.text`."""
    content = _from_text(POINTER_PREFIX, text, limits)
    mesh, node, rest = content[:ID_BYTES], content[ID_BYTES : 2 * ID_BYTES], content[2 * ID_BYTES :]
    address = rest[CODE_BYTES:].decode("ascii", "replace")
    if not _is_address(address, limits):
        raise error("token.text", reason="it names no place of the form host:port")
    return Pointer(mesh, node, address, rest[:CODE_BYTES])


def parse_credential(text: str, limits: Limits = LIMITS) -> Ticket | Pointer:
    """A token or its short form, whichever the text is; `token.text` or `token.malformed`."""
    is_short = text.lstrip().startswith(POINTER_PREFIX)
    return parse_pointer(text, limits) if is_short else parse_token(text, limits)


def _to_text(prefix: str, content: bytes) -> str:
    return prefix + base64.urlsafe_b64encode(content + _checksum(prefix, content)).decode().rstrip("=")


def _from_text(prefix: str, text: str, limits: Limits) -> bytes:
    """What the text carries. It is at most as long as a gateway could send one for its short form."""
    text = "".join(text.split())
    if not text.startswith(prefix):
        raise error("token.text", reason=f"it does not begin with {prefix}")
    if len(text) > limits.guest_message_bytes:
        raise error("token.text", reason=f"it is longer than {limits.guest_message_bytes} characters")
    digits = text.removeprefix(prefix)
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
    except ValueError as err:
        raise error("token.text", reason="it holds characters that no token has, or lacks some") from err
    content, checksum = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if checksum != _checksum(prefix, content) or _to_text(prefix, content) != text:
        raise error("token.text", reason="a part is missing or mistyped")
    return content


def _checksum(prefix: str, content: bytes) -> bytes:
    return hashlib.sha256(prefix.encode() + content).digest()[:_CHECK_BYTES]


# ---- what is well formed


def _fault(token: Token, limits: Limits) -> str | None:
    """What the types cannot say."""
    nodes = {endpoint.node for endpoint in token.endpoints}
    if len(nodes) != len(token.endpoints):
        return "a gateway is named twice"
    if not all(_is_address(endpoint.address, limits) for endpoint in token.endpoints):
        return "the place of a gateway is not of the form host:port"
    if token.redeemer is not None and token.redeemer not in nodes:
        return "the redeemer is not one of the gateways"
    if not is_tag_set(token.tags, limits.tags_per_node):
        return "the tags are not a sorted set of tags"
    if token.not_before_ms > token.not_after_ms:
        return "it ends before it begins"
    return None


def _is_address(text: str, limits: Limits) -> bool:
    return len(text) <= limits.text_bytes and is_host_port(text)


def _name(token: Token) -> str:
    return str(TokenId(hashlib.sha256(encode_token(token)).digest()))


_FORM: Final = Form(Token, Domain.TOKEN, "token.malformed", _fault)
