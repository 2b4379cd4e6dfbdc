"""Messages of an enrolment: what the joiner and the gateway say to one another on a stream of `ENROL_PATH`.

    joiner                                   gateway
    Fetch(code)            ------------->                       only for the short form of a token
                           <-------------    Ticket(text)
    Hello(token id)        ------------->
                           <-------------    Offer(descriptor, chain of the issuer's grants)
    (checks all of it before it says anything of itself)
    Ask(request, secret)   ------------->
                           <-------------    News(state), again after each change, until a final one
    or, at any moment      <-------------    Refusal(key), and the end

Each is one binary message in MessagePack: an array that begins with its kind. Both sides decode strictly, and every
field has a bound. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from appliance.core.errors import error

ENROL_PATH: Final = "/x0t/enrol/1"
CODE_BYTES: Final = 16
SECRET_BYTES: Final = 32

Hash: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Blob: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=65_536)]  # of a signed object; its parser is stricter
Chain: TypeAlias = Annotated[tuple[Blob, ...], Meta(max_length=8)]  # leaf first; `check_chain` is stricter
Key: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z_]{1,32}(\.[a-z_]{1,32}){1,3}$")]
Words: TypeAlias = Annotated[str, Meta(max_length=256)]
Details: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=32)], Words], Meta(max_length=8)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array; its first item is the kind."""


class Fetch(_Message, frozen=True, tag="fetch"):
    """Asks for the token that a code of the short form stands for."""

    code: Annotated[bytes, Meta(min_length=CODE_BYTES, max_length=CODE_BYTES)]


class Hello(_Message, frozen=True, tag="hello"):
    """Names the token; says nothing of the joiner."""

    token: Hash


class Ask(_Message, frozen=True, tag="ask"):
    """The request, signed and bound to this session, and the secret that shows who holds the token."""

    request: Annotated[bytes, Meta(min_length=1, max_length=12_288)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


class Ticket(_Message, frozen=True, tag="ticket"):
    """The token as text, with its secret."""

    text: Annotated[str, Meta(min_length=1, max_length=49_152)]


class Offer(_Message, frozen=True, tag="offer"):
    """Who the mesh is, and what lets the token's issuer invite."""

    descriptor: Blob
    chain: Chain


class News(_Message, frozen=True, tag="news"):
    """How the enrolment stands. With `approved` come the node certificate and the chain of who signed it."""

    state: Annotated[str, Meta(min_length=1, max_length=32)]
    reason: Annotated[str, Meta(max_length=64)] = ""  # an error key
    detail: Details = {}  # what the message of that error names
    note: Words = ""  # what the one who decided wrote
    since_ms: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    certificate: Annotated[bytes, Meta(max_length=65_536)] = b""
    chain: Chain = ()


class Refusal(_Message, frozen=True, tag="refusal"):
    """Why the gateway ends the conversation: an error key, with what its message names."""

    key: Key
    detail: Details = {}


FromJoiner: TypeAlias = Fetch | Hello | Ask
FromGateway: TypeAlias = Ticket | Offer | News | Refusal


def encode(message: FromJoiner | FromGateway) -> bytes:
    """The bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode_from_joiner(data: bytes) -> FromJoiner:
    """What a joiner said. Raises `admission.message`."""
    try:
        message: FromJoiner = msgspec.msgpack.decode(data, type=FromJoiner)
    except msgspec.MsgspecError as err:
        raise error("admission.message", reason=str(err)) from err
    return message


def decode_from_gateway(data: bytes) -> FromGateway:
    """What a gateway said. Raises `admission.message`."""
    try:
        message: FromGateway = msgspec.msgpack.decode(data, type=FromGateway)
    except msgspec.MsgspecError as err:
        raise error("admission.message", reason=str(err)) from err
    return message
