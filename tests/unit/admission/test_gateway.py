from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from appliance.admission.gateway import Conversation, Session, code_hash, judge, same_keys
from appliance.admission.messages import Ask, Fetch, FromJoiner, Hello, encode
from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.trust.enrolment import peek_request
from appliance.trust.pqc import provider
from appliance.trust.tokens import Ticket
from tests.admission_rig import NOW_MS, SECRET, Robot, World, asked

EXPORTER = bytes(range(32))
VERIFY = provider().mldsa_verify
FETCH, HELLO, ASK = Fetch(bytes(16)), Hello(bytes(32)), Ask(b"x", bytes(32))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def robot() -> Robot:
    return Robot()


def session(world: World, robot: Robot, **changes: object) -> Session:
    made = Session(mesh=world.mesh, peer=robot.id, exporter=EXPORTER, now_ms=NOW_MS)
    return msgspec.structs.replace(made, **changes)


def key_or(work: Callable[[], str]) -> str:
    try:
        return work()
    except X0tError as err:
        return err.key


def refusal(ask: Ask, ticket: Ticket, where: Session) -> str:
    with pytest.raises(X0tError) as caught:
        judge(ask, ticket.blob, where, VERIFY)
    return caught.value.key


@pytest.mark.parametrize(
    "said,ends",
    [
        ((HELLO, ASK), "asked"),
        ((FETCH, HELLO, ASK), "asked"),
        ((FETCH,), "fetched"),
        ((ASK,), "admission.order"),
        ((HELLO, HELLO), "admission.order"),
        ((HELLO, FETCH), "admission.order"),
        ((FETCH, FETCH), "admission.order"),
        ((FETCH, ASK), "admission.order"),
        ((HELLO, ASK, ASK), "admission.order"),
    ],
)
def test_a_conversation_has_one_course(said: tuple[FromJoiner, ...], ends: str) -> None:
    conversation = Conversation()

    def talk() -> str:
        for message in said:
            assert conversation.take(encode(message)) == message
        return conversation.stage.value

    assert key_or(talk) == ends


def test_who_holds_token_key_and_session_is_believed(world: World, robot: Robot) -> None:
    ticket = world.ticket()
    blob = asked(robot, ticket, EXPORTER)
    assert judge(Ask(blob, SECRET), ticket.blob, session(world, robot), VERIFY) == peek_request(blob)


def test_a_recorded_request_is_worth_nothing_in_another_session(world: World, robot: Robot) -> None:
    ticket = world.ticket()
    ask = Ask(asked(robot, ticket, EXPORTER), SECRET)
    assert refusal(ask, ticket, session(world, robot, exporter=bytes(32))) == "admission.binding"


def test_a_request_that_another_node_passes_on_is_refused(world: World, robot: Robot) -> None:
    ticket = world.ticket()
    ask = Ask(asked(robot, ticket, EXPORTER), SECRET)
    assert refusal(ask, ticket, session(world, robot, peer=Robot("thief").id)) == "admission.peer"


@pytest.mark.parametrize(
    "change,key",
    [
        ({"mesh": bytes(32)}, "request.proof"),  # the mesh key signed for another mesh
        ({"token": bytes(32)}, "admission.token"),
        ({"binding": bytes(32)}, "admission.binding"),
        ({"mesh_key": bytes(32)}, "request.proof"),
        ({"mesh_proof": bytes(64)}, "request.proof"),
        ({"node_key": Robot("other").key.public_key}, "request.signature"),
        ({"created_ms": NOW_MS - LIMITS.clock_ahead_ms - 1}, "admission.clock"),
        ({"created_ms": NOW_MS + LIMITS.clock_ahead_ms + 1}, "admission.clock"),
        ({"created_ms": 0}, "admission.clock"),
    ],
    ids=str,
)
def test_a_request_that_says_something_else_is_refused(world: World, change: dict[str, object], key: str) -> None:
    robot, ticket = Robot(changes=change), world.ticket()
    ask = Ask(asked(robot, ticket, EXPORTER), SECRET)
    assert refusal(ask, ticket, session(world, robot)) == key


def test_a_request_for_another_mesh_is_refused(world: World, robot: Robot) -> None:
    ticket = World("elsewhere").ticket()
    ask = Ask(asked(robot, ticket, EXPORTER), SECRET)
    assert refusal(ask, ticket, session(world, robot)) == "admission.mesh"


def test_a_clock_that_is_off_by_hours_is_explained_with_both_clocks(world: World) -> None:
    robot, ticket = Robot(now_ms=NOW_MS - 3 * 3_600_000), world.ticket()
    with pytest.raises(X0tError) as caught:
        judge(Ask(asked(robot, ticket, EXPORTER), SECRET), ticket.blob, session(world, robot), VERIFY)
    assert caught.value.key == "admission.clock"
    assert "3h behind the gateway's" in caught.value.message
    assert "timedatectl" in caught.value.hint


@pytest.mark.parametrize("at", range(0, 32, 5))
def test_a_wrong_secret_is_refused_before_anything_is_verified(world: World, robot: Robot, at: int) -> None:
    ticket = world.ticket()
    wrong = bytearray(SECRET)
    wrong[at] ^= 1

    def verify(*_: bytes) -> bool:
        raise AssertionError("nothing is verified for who has no secret")

    with pytest.raises(X0tError, match=r"admission\.secret"):
        judge(Ask(b"not even a request", bytes(wrong)), ticket.blob, session(world, robot), verify)


def test_a_bit_of_a_request_cannot_be_changed(world: World, robot: Robot) -> None:
    ticket = world.ticket()
    blob = asked(robot, ticket, EXPORTER)
    for at in range(0, len(blob), 97):
        bad = bytearray(blob)
        bad[at] ^= 1
        with pytest.raises(X0tError):
            judge(Ask(bytes(bad), SECRET), ticket.blob, session(world, robot), VERIFY)


@pytest.mark.parametrize("name", ["kem_key", "mesh_key", "tunnel_key", "node_key"])
def test_other_keys_are_told_apart_and_another_session_is_not(world: World, robot: Robot, name: str) -> None:
    ticket = world.ticket()
    first, second = (peek_request(asked(robot, ticket, bytes([number]) * 32)) for number in range(2))
    assert first != second
    assert same_keys(first, second)
    other = bytes([7]) * len(getattr(second, name))
    assert not same_keys(first, msgspec.structs.replace(second, **{name: other}))


def test_a_code_is_looked_up_by_a_hash_that_does_not_show_it() -> None:
    assert code_hash(bytes(16)) != code_hash(bytes(15) + b"\1")
    assert bytes(16) not in code_hash(bytes(16))
