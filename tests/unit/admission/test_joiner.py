from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from appliance.admission.joiner import Joiner, Means, refused
from appliance.admission.messages import (
    Ask,
    Fetch,
    FromGateway,
    Hello,
    News,
    Offer,
    Refusal,
    Ticket,
    decode_from_joiner,
    encode,
)
from appliance.core.errors import X0tError
from appliance.trust import tokens
from appliance.trust.enrolment import bind, peek_request
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import provider
from appliance.trust.tokens import Endpoint, Pointer, format_token, sign_token, token_id
from tests.admission_rig import DAY_MS, GATEWAY_ADDRESS, NOW_MS, SECRET, Robot, World

EXPORTER = bytes(range(32))
VERIFY = provider().mldsa_verify


@dataclass
class Clock:
    ms: int = NOW_MS

    def __call__(self) -> int:
        return self.ms


@dataclass
class Scene:
    """A robot before a gateway that says what a test likes."""

    world: World
    robot: Robot = field(default_factory=Robot)
    clock: Clock = field(default_factory=Clock)

    def joiner(self, credential: tokens.Ticket | Pointer, *, is_known: bool = False) -> Joiner:
        return Joiner(credential, self.robot, EXPORTER, Means(VERIFY, self.clock, is_known=is_known))

    def refusal(self, ticket: tokens.Ticket, offer: FromGateway) -> str:
        """What the robot leaves for; it has said nothing of itself."""
        joiner = self.joiner(ticket)
        joiner.begin()
        with pytest.raises(X0tError) as caught:
            joiner.take(encode(offer))
        assert self.robot.made == []
        return caught.value.key

    def offer(self) -> Offer:
        return Offer(self.world.descriptor, self.world.chain)

    def asking(self) -> Joiner:
        joiner = self.joiner(self.world.ticket())
        joiner.begin()
        assert joiner.take(encode(self.offer())) is not None
        return joiner


@pytest.fixture
def scene() -> Scene:
    return Scene(World())


def flip(blob: bytes, at: int = -10) -> bytes:
    bad = bytearray(blob)
    bad[at] ^= 1
    return bytes(bad)


def test_it_names_the_token_first_and_then_asks_with_a_request_of_this_session(scene: Scene) -> None:
    ticket = scene.world.ticket()
    joiner = scene.joiner(ticket)
    assert decode_from_joiner(joiner.begin()) == Hello(token_id(ticket.blob))
    answer = joiner.take(encode(scene.offer()))
    assert answer is not None
    ask = decode_from_joiner(answer)
    assert isinstance(ask, Ask)
    assert ask.secret == SECRET
    assert peek_request(ask.request).binding == bind(EXPORTER)
    assert joiner.descriptor_blob == scene.world.descriptor


def test_what_it_says_before_the_mesh_is_checked_tells_nothing_of_it(scene: Scene) -> None:
    ticket = scene.world.ticket()
    said = scene.joiner(ticket).begin()
    for secret in (SECRET, scene.robot.id, scene.robot.key.public_key[:16], b"robot"):
        assert secret not in said


class TestItLeavesWithoutAWordOfItself:
    def test_another_mesh_than_the_token_s(self, scene: Scene) -> None:
        other = World("elsewhere")
        assert scene.refusal(scene.world.ticket(), Offer(other.descriptor, other.chain)) == "admission.mesh"
        assert scene.refusal(scene.world.ticket(), Offer(scene.world.descriptor, other.chain)) == "grant.issuer"

    def test_a_descriptor_that_the_authority_did_not_sign(self, scene: Scene) -> None:
        offer = Offer(flip(scene.world.descriptor), scene.world.chain)
        assert scene.refusal(scene.world.ticket(), offer) == "mesh.descriptor_signature"

    @pytest.mark.parametrize("change", [{"tags": ("admin",)}, {"uses": 99}, {"not_after_ms": NOW_MS + 9 * DAY_MS}])
    def test_a_token_that_was_changed(self, scene: Scene, change: dict[str, object]) -> None:
        """Re-encoded with the old signature, as whoever carries it could."""
        genuine = scene.world.ticket()
        forged = sign_token(scene.world.token(**change), lambda *_: signature_of(genuine.blob))
        ticket = tokens.parse_token(format_token(forged, SECRET))
        assert scene.refusal(ticket, scene.offer()) == "token.signature"

    def test_a_token_by_somebody_without_a_grant(self, scene: Scene) -> None:
        forged = sign_token(scene.world.token(), Robot("thief").key.sign)
        ticket = tokens.parse_token(format_token(forged, SECRET))
        assert scene.refusal(ticket, scene.offer()) == "token.signature"

    @pytest.mark.parametrize(
        "roles,scope,expected",
        [
            ((Role.MEMBER,), (), "token.widens"),
            ((Role.ADMIN,), (), "token.widens"),
            ((Role.APPROVER,), ("camera",), "token.widens"),
        ],
    )
    def test_a_token_beyond_its_issuer_s_grant(
        self, roles: tuple[Role, ...], scope: tuple[str, ...], expected: str
    ) -> None:
        scene = Scene(World(roles=roles, scope=scope))
        assert scene.refusal(scene.world.ticket(), scene.offer()) == expected

    @pytest.mark.parametrize("chain", ["empty", "flipped", "twice", "of another grant"])
    def test_a_chain_that_does_not_reach_the_authority(self, scene: Scene, chain: str) -> None:
        root = scene.world.chain[0]
        chains = {
            "empty": (),
            "flipped": (flip(root),),
            "twice": (root, root),
            "of another grant": (self_made_grant(scene.world),),
        }
        assert scene.refusal(scene.world.ticket(), Offer(scene.world.descriptor, chains[chain])).startswith("grant.")

    @pytest.mark.parametrize(
        "at_ms,expected", [(NOW_MS + 2 * DAY_MS, "token.expired"), (NOW_MS - 2 * DAY_MS, "token.early")]
    )
    def test_a_token_out_of_its_time_by_its_own_clock(self, scene: Scene, at_ms: int, expected: str) -> None:
        scene.clock.ms = at_ms
        assert scene.refusal(scene.world.ticket(), scene.offer()) == expected

    @pytest.mark.parametrize(
        "said",
        [News("approved"), Ticket("x0t1.abc"), Refusal("token.spent", {"token": "token1abc"})],
        ids=lambda said: type(said).__name__,
    )
    def test_anything_but_an_offer(self, scene: Scene, said: FromGateway) -> None:
        expected = "token.spent" if isinstance(said, Refusal) else "admission.order"
        if expected == "token.spent":
            expected = refused("token.spent", {}).key
        assert scene.refusal(scene.world.ticket(), said) == expected


def test_a_node_that_was_heard_before_comes_back_after_the_token_s_end(scene: Scene) -> None:
    scene.clock.ms = NOW_MS + 2 * DAY_MS
    joiner = scene.joiner(scene.world.ticket(), is_known=True)
    joiner.begin()
    assert joiner.take(encode(scene.offer())) is not None


class TestTheShortForm:
    def pointer(self, world: World) -> Pointer:
        return Pointer(world.mesh, world.gateway, GATEWAY_ADDRESS, bytes(16))

    def test_is_exchanged_for_the_token_first(self, scene: Scene) -> None:
        joiner = scene.joiner(self.pointer(scene.world))
        assert decode_from_joiner(joiner.begin()) == Fetch(bytes(16))
        ticket = scene.world.ticket()
        said = joiner.take(encode(Ticket(format_token(ticket.blob, SECRET))))
        assert said == encode(Hello(token_id(ticket.blob)))
        assert joiner.ticket == ticket

    @pytest.mark.parametrize("case", ["another mesh", "another gateway", "no token"])
    def test_is_not_exchanged_for_anything_else(self, scene: Scene, case: str) -> None:
        joiner = scene.joiner(self.pointer(scene.world))
        joiner.begin()
        ticket = scene.world.ticket()
        if case == "another mesh":
            ticket = World("elsewhere").ticket()
        if case == "another gateway":
            ticket = scene.world.ticket(endpoints=(Endpoint("other:1", bytes(32)),))
        text = "nonsense" if case == "no token" else format_token(ticket.blob, SECRET)
        with pytest.raises(X0tError) as caught:
            joiner.take(encode(Ticket(text)))
        assert caught.value.key == ("token.text" if case == "no token" else "admission.pointer")
        assert scene.robot.made == []


class TestTheDecision:
    @pytest.mark.parametrize("state", ["requested", "wanted", "pending", "rejected", "suspended", "banned"])
    def test_is_heard(self, scene: Scene, state: str) -> None:
        joiner = scene.asking()
        assert joiner.take(encode(News(state, "admission.rejected", {}, "not today", NOW_MS))) is None
        assert joiner.news == News(state, "admission.rejected", {}, "not today", NOW_MS)

    def test_is_believed_with_a_certificate_of_its_own_keys(self, scene: Scene) -> None:
        joiner = scene.asking()
        certificate = scene.world.certificate(peek_request(scene.robot.made[-1]))
        joiner.take(encode(News("approved", certificate=certificate, chain=scene.world.chain)))
        assert joiner.certificate is not None
        assert joiner.certificate.subject == scene.robot.id

    @pytest.mark.parametrize("name", ["kem_key", "mesh_key", "tunnel_key"])
    def test_is_not_believed_with_swapped_keys(self, scene: Scene, name: str) -> None:
        joiner = scene.asking()
        request = peek_request(scene.robot.made[-1])
        other = bytes([7]) * len(getattr(request, name))
        certificate = scene.world.certificate(request, **{name: other})
        assert self.refusal(joiner, certificate, scene.world.chain) == "admission.certificate"

    def test_is_not_believed_with_a_certificate_of_another_node(self, scene: Scene) -> None:
        joiner = scene.asking()
        other = Robot("other")
        other.request(scene.world.token(), bytes(32), bytes(32))
        certificate = scene.world.certificate(peek_request(other.made[-1]))
        assert self.refusal(joiner, certificate, scene.world.chain) == "admission.certificate"

    def test_is_not_believed_without_an_approver_s_signature(self, scene: Scene) -> None:
        joiner = scene.asking()
        certificate = scene.world.certificate(peek_request(scene.robot.made[-1]))
        assert self.refusal(joiner, flip(certificate), scene.world.chain) == "certificate.signature"
        assert self.refusal(joiner, certificate, ()) == "grant.malformed"
        assert self.refusal(joiner, b"", scene.world.chain) == "certificate.malformed"
        elsewhere = World("elsewhere")
        foreign = elsewhere.certificate(peek_request(scene.robot.made[-1]))
        assert self.refusal(joiner, foreign, elsewhere.chain) == "grant.issuer"
        assert self.refusal(joiner, foreign, scene.world.chain) == "certificate.issuer"

    def test_is_not_believed_from_an_approver_of_other_tags(self) -> None:
        scene = Scene(World(roles=(Role.APPROVER,), scope=("robot",)))
        joiner = scene.asking()
        certificate = scene.world.certificate(peek_request(scene.robot.made[-1]), tags=("safety",))
        assert self.refusal(joiner, certificate, scene.world.chain) == "certificate.widens"

    def test_is_not_taken_before_the_question(self, scene: Scene) -> None:
        joiner = scene.joiner(scene.world.ticket())
        joiner.begin()
        with pytest.raises(X0tError, match=r"admission\.order"):
            joiner.take(encode(News("pending")))

    def refusal(self, joiner: Joiner, certificate: bytes, chain: tuple[bytes, ...]) -> str:
        with pytest.raises(X0tError) as caught:
            joiner.take(encode(News("approved", certificate=certificate, chain=chain)))
        assert joiner.certificate is None
        assert joiner.news is None
        return caught.value.key


@pytest.mark.parametrize(
    "key,expected",
    [
        ("admission.secret", "admission.secret"),
        ("token.expired", "token.expired"),
        ("token.signature", "admission.refused"),  # an alarm of ours is not raised by others
        ("replica.corrupt", "admission.refused"),
        ("control.failed", "admission.refused"),
        ("admission.no_such", "admission.refused"),
    ],
)
def test_a_gateway_raises_only_what_belongs_here(key: str, expected: str) -> None:
    assert refused(key, {"node": "x"}).key == expected


def signature_of(blob: bytes) -> bytes:
    from appliance.core.cose import open1

    return open1(blob).signature


def self_made_grant(world: World) -> bytes:
    """A grant that the owner gave itself."""
    grant = Grant(
        mesh=world.mesh,
        issuer=world.gateway,
        subject=world.gateway,
        subject_key=world.owner.public_key,
        roles=(Role.OWNER,),
        scope=(),
        delegate=0,
        not_before_ms=NOW_MS - DAY_MS,
        not_after_ms=NOW_MS + DAY_MS,
        parent=grant_id(world.chain[0]),
        nonce=bytes(16),
    )
    return sign_grant(grant, world.owner.sign)
