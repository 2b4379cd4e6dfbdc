"""What a member may write about admission who keeps to no rule: as tests/sim/scribe.py, from the same tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    RetireEntry,
    TokenEntry,
)
from appliance.trust.certificates import peek_certificate
from appliance.trust.grants import peek_grant
from appliance.trust.tokens import peek_token, token_id
from tests.sim import papers
from tests.sim.tape import Tape
from tests.sim.world import FAR_MS, START_MS, Member, Mesh

TAGS: tuple[tuple[str, ...], ...] = ((), ("robot",), ("gate", "robot"), ("gate",))


@dataclass
class Drawer:
    """The papers that there are, as everybody may have copies of them."""

    tokens: list[bytes] = field(default_factory=list)
    asked: list[tuple[bytes, Member]] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    count: int = 0

    def next(self) -> int:
        self.count += 1
        return self.count


@dataclass
class AdmissionScribe:
    """Writes entries of admission for any of the members."""

    mesh: Mesh
    members: Sequence[Member]
    grants: dict[bytes, list[bytes]]
    drawer: Drawer
    tape: Tape

    def entry(self, author: Member) -> EntryBody | None:
        """The next of the tape; None if the choice makes no sense here."""
        kinds: tuple[Callable[[Member], EntryBody | None], ...] = (
            self._enrol,
            self._certify,
            self._decide,
            self._token,
            self._certify,
            self._enrol,
            self._decide,
            self._retire,
            self._again,
        )
        return self.tape.one_of(kinds)(author)

    def _token(self, author: Member) -> EntryBody | None:
        grant = self._grant(author)
        if grant is None:
            return None
        gateways = list(dict.fromkeys([self.tape.one_of(self.members), *self.members[: self.tape.number(3)]]))
        blob = papers.token(
            self.mesh,
            author,
            grant,
            gateways,
            tags=self.tape.one_of((self._scope(grant), *TAGS)),
            uses=1 + self.tape.number(2),
            level="none" if self.tape.number(8) < 7 else "tpm",
            times=(START_MS, FAR_MS if self.tape.number(8) < 7 else START_MS + 4000),
            number=self.drawer.next(),
        )
        self.drawer.tokens.append(blob)
        return TokenEntry(blob, "")

    def _retire(self, author: Member) -> EntryBody | None:
        return RetireEntry(token_id(self.tape.one_of(self.drawer.tokens)), "") if self.drawer.tokens else None

    def _enrol(self, author: Member) -> EntryBody | None:
        """Mostly at a gateway that the token names: who that is, the tape has said by choosing the author."""
        named = [blob for blob in self.drawer.tokens if author.id in {end.node for end in peek_token(blob).endpoints}]
        tokens = named if self.tape.number(8) < 7 else self.drawer.tokens
        if not tokens:
            return self._token(author)
        token = self.tape.one_of(tokens[:-4:-1])
        node = self.tape.one_of(self.members[:-5:-1])
        self.drawer.asked.append((token, node))
        other = token if self.tape.number(16) < 15 else self.tape.one_of(self.drawer.tokens)
        return EnrolEntry(token, papers.request(self.mesh, node, other))

    def _certify(self, author: Member) -> EntryBody | None:
        grant = self._grant(author)
        if grant is None:
            return None
        token, node = self.tape.one_of([*self.drawer.asked[:-6:-1], (None, self.tape.one_of(self.members))])
        given = () if token is None else peek_token(token).tags
        tags = self.tape.one_of((given, given, self._scope(grant), *TAGS))
        held = peek_grant(grant)
        blob = papers.certificate(
            self.mesh,
            author,
            grant,
            node,
            enrolment=None if token is None else papers.enrolment(token, node),
            tags=tags,
            times=(held.not_before_ms, held.not_after_ms + (self.tape.number(16) == 15)),
            number=self.drawer.next(),
        )
        self.drawer.certificates.append(blob)
        return CertifyEntry(blob, "")

    def _again(self, author: Member) -> EntryBody | None:
        """A certificate once more, by who made it or by somebody else."""
        own = [blob for blob in self.drawer.certificates if peek_certificate(blob).issuer == author.id]
        known = own if own and self.tape.number(4) < 3 else self.drawer.certificates
        return CertifyEntry(self.tape.one_of(known), "") if known else None

    def _decide(self, author: Member) -> EntryBody:
        node = self.tape.one_of([*(node for _, node in self.drawer.asked[:-6:-1]), *self.members[:-3:-1]])
        return DecideEntry(node.id, self.tape.one_of(tuple(Action)), "", "")

    def _grant(self, author: Member) -> bytes | None:
        own = self.grants.get(author.id)
        return self.tape.one_of(own) if own else None

    def _scope(self, grant: bytes) -> tuple[str, ...]:
        return peek_grant(grant).scope
