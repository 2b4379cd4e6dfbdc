"""Oracle: what has effect, worked out the slow way from the words of ADR 0010, over explicit sets of ancestors.

It shares no code with the replica but for the formats (batches, entries, grants). Everything is a set of hashes, every
question is answered by looking at all batches, and nothing is incremental; so it is right by reading and not by speed.
It holds for a mesh in which every batch is at hand, and it says for each entry why it has no effect, or None.
"""
# size: one argument from admission to effect, to be read beside the ADR

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch, Verify, verify_batch
from appliance.replica.entries import (
    AnnounceEntry,
    AttachEntry,
    CertifyEntry,
    ChangeEntry,
    CheckpointEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
    TokenEntry,
    parse,
)
from appliance.trust.certificates import NodeCertificate, as_grant, certificate_id, open_certificate
from appliance.trust.grants import Grant, Role, grant_id, open_grant, peek_grant
from tests.sim.admission_oracle import entry_fault, invited, valid_at

IN, OUT, OPEN = "in", "out", "open"
STRONG = {Role.OWNER, Role.ADMIN}
Key = tuple[int, bytes, int]


def roles_of(roles: Iterable[Role]) -> set[Role]:
    """An owner may do all; who holds anything is a member."""
    held = set(roles)
    return set(Role) if Role.OWNER in held else held | ({Role.MEMBER} if held else set())


@dataclass(eq=False)
class Claim:
    """An entry that gives or takes authority."""

    batch: SignedBatch
    index: int
    body: EntryBody
    void: str | None = None
    grant: Grant | None = None
    grant_id: bytes = b""
    certificate: NodeCertificate | None = None  # its `grant` is what it gives
    scope: frozenset[str] = frozenset()  # of an approver's revocation
    depth: int = 0
    needs: set[Role] = field(default_factory=set)
    rests_on: list[Claim] = field(default_factory=list)
    state: str = OPEN
    reason: str = ""
    waits: set[Key] = field(default_factory=set)

    @property
    def key(self) -> Key:
        return (self.batch.batch.hlc, self.batch.hash, self.index)


class Oracle:
    """`effects` is the answer; `admitted` are the batches that every replica keeps."""

    def __init__(
        self, mesh: bytes, authority_key: bytes, verify: Verify, batches: Iterable[SignedBatch], limits: Limits = LIMITS
    ) -> None:
        self.mesh, self.authority_key, self.verify, self.limits = mesh, authority_key, verify, limits
        self.admitted: dict[bytes, SignedBatch] = {}
        self.past: dict[bytes, frozenset[bytes]] = {}
        self.line: dict[bytes, list[bytes]] = {}  # the author's log up to and with this batch
        self.claims: list[Claim] = []
        self._cover: dict[Key, set[bytes]] = {}  # what sound checkpoints cover, which never changes
        for batch in sorted({b.hash: b for b in batches}.values(), key=lambda b: (b.batch.hlc, b.hash)):
            self._admit(batch)
        self._settle()
        self.effects = {
            (batch.hash, index): self._effect(batch, index)
            for batch in self.admitted.values()
            for index in range(len(batch.batch.entries))
        }

    # -- admission

    def _admit(self, signed: SignedBatch) -> None:
        batch = signed.batch
        named = [*batch.parents, *self._named(signed)]
        before = ([batch.prev] if batch.prev else []) + named
        if batch.mesh != self.mesh or batch.channel != "control" or any(h not in self.admitted for h in before):
            return
        if any(self.admitted[h].batch.hlc >= batch.hlc for h in before):
            return
        if batch.prev:
            prev = self.admitted[batch.prev].batch
            if prev.author != batch.author or prev.seq + 1 != batch.seq:
                return
        past = frozenset(before).union(*(self.past[h] for h in before))
        keys = [c.grant.subject_key for c in self.grants_to(batch.author) if c.batch.hash in past and c.grant]
        if not keys and not batch.prev:
            keys = [grant.subject_key for grant in self._openings(signed)]
        if not keys or not verify_batch(signed, keys[0], self.verify):
            return
        self.admitted[signed.hash], self.past[signed.hash] = signed, past
        self.line[signed.hash] = [*(self.line[batch.prev] if batch.prev else []), signed.hash]
        for index in range(len(batch.entries)):
            body = self.body(signed, index)
            if isinstance(body, GrantEntry | RevokeEntry | ThawEntry | CheckpointEntry | CertifyEntry):
                claim = Claim(signed, index, body)
                claim.void = self._fault(claim, body)
                self.claims.append(claim)

    def body(self, signed: SignedBatch, index: int) -> EntryBody | str:
        kind, raw = signed.batch.entries[index]
        try:
            return parse(kind, raw, self.limits) or "unknown"
        except X0tError:
            return "malformed"

    def _named(self, signed: SignedBatch) -> list[bytes]:
        bodies = [self.body(signed, index) for index in range(len(signed.batch.entries))]
        cuts = [body.cut_head for body in bodies if isinstance(body, RevokeEntry) and body.cut_head]
        return cuts + [body.keep for body in bodies if isinstance(body, ThawEntry)]

    def _openings(self, signed: SignedBatch) -> list[Grant]:
        found = []
        for index in range(len(signed.batch.entries)):
            body = self.body(signed, index)
            if isinstance(body, GrantEntry):
                try:
                    grant = open_grant(body.grant, self.verify, self.authority_key)
                except X0tError:
                    continue
                if grant.issuer == grant.mesh == self.mesh and grant.subject == signed.batch.author:
                    found.append(grant)
        return found

    # -- what no later batch can mend

    def _fault(self, claim: Claim, body: EntryBody) -> str | None:
        match body:
            case GrantEntry():
                return self._grant_fault(claim, body)
            case RevokeEntry():
                cut = self.admitted[body.cut_head] if body.cut_head else None
                if (cut.batch.seq if cut else 0) != body.cut_seq or (cut and cut.batch.author != body.target):
                    return "revoke.cut"
                return self._power_fault(claim, body.target)
            case CertifyEntry():
                return self._certificate_fault(claim, body)
            case ThawEntry():
                if self.admitted[body.keep].batch.author != body.author:
                    return "thaw.keep"
                return "thaw.self" if body.author == claim.batch.batch.author else self._rest_on(claim, Role.OWNER)
            case CheckpointEntry():
                if body.horizon >= claim.batch.batch.hlc:
                    return "checkpoint.horizon"
                return self._rest_on(claim, Role.OWNER) or self._digest_fault(claim, body)
            case _:
                raise AssertionError(body)

    def _grant_fault(self, claim: Claim, body: GrantEntry) -> str | None:
        author = claim.batch.batch.author
        try:
            issuer = peek_grant(body.grant).issuer
            own = [c for c in self.grants_to(author) if self.is_before(c, claim.batch) and c.grant]
            if issuer != self.mesh and (issuer != author or not own):
                return "grant.issuer"
            key = self.authority_key if issuer == self.mesh else own[0].grant.subject_key if own[0].grant else b""
            grant = open_grant(body.grant, self.verify, key)
        except X0tError as err:
            return err.key
        if grant.mesh != self.mesh:
            return "grant.mesh"
        identity = grant_id(body.grant)
        if any(c.grant_id == identity and self._is_published_before(c, claim) for c in self.grants_to(grant.subject)):
            return "grant.repeated"
        if issuer != self.mesh:
            parents = [c for c in own if c.grant_id == grant.parent and c.grant and valid_at(c.grant, claim.batch)]
            if not parents:
                return "grant.issuer"
            if not _narrower(grant, parents[0].grant):
                return "grant.widens"
            claim.depth = 1 + min(c.depth for c in parents)
            if claim.depth >= self.limits.grant_depth:
                return "grant.depth"
            claim.rests_on, claim.needs = parents, set(grant.roles)
        claim.grant, claim.grant_id = grant, identity
        return None

    def _certificate_fault(self, claim: Claim, body: CertifyEntry) -> str | None:
        author = claim.batch.batch.author
        own = [c for c in self.grants_to(author) if self.is_before(c, claim.batch) and c.grant]
        if not own or own[0].grant is None:
            return "certificate.issuer"
        try:
            said = open_certificate(body.certificate, self.verify, own[0].grant.subject_key, self.limits)
        except X0tError as err:
            return err.key
        identity = certificate_id(body.certificate)
        if any(c.grant_id == identity and self._is_published_before(c, claim) for c in self.grants_to(said.subject)):
            return "certificate.repeated"
        parents = [c for c in own if c.grant_id == said.parent and c.grant and valid_at(c.grant, claim.batch)]
        if not parents:
            return "certificate.issuer"
        if said.mesh != self.mesh:
            return "certificate.mesh"
        if not invited(parents[0].grant, said.tags, said.not_before_ms, said.not_after_ms):
            return "certificate.widens"
        claim.depth = 1 + min(c.depth for c in parents)
        claim.rests_on, claim.needs = parents, {Role.APPROVER}
        claim.grant, claim.grant_id, claim.certificate = as_grant(said), identity, said
        return None

    def _is_published_before(self, earlier: Claim, claim: Claim) -> bool:
        return earlier.batch.hash in self.past[claim.batch.hash] or earlier.batch.hash == claim.batch.hash

    def _power_fault(self, claim: Claim, target: bytes) -> str | None:
        """A key gives up its own roles as it likes; an owner takes all; an admin what is not an owner's to take; an
        approver the certificates, within its scope, of who holds nothing else."""
        if target == claim.batch.batch.author:
            return self._rest_on(claim, Role.MEMBER)
        held = [c for c in self.grants_to(target) if self.is_before(c, claim.batch) and c.grant]
        strong = any(c.grant and STRONG & set(c.grant.roles) for c in held)
        if strong or self.entitling(claim.batch, Role.OWNER):
            return self._rest_on(claim, Role.OWNER)
        certified = [c.certificate for c in held if c.certificate is not None]
        if not certified or len(certified) < len(held) or self.entitling(claim.batch, Role.ADMIN):
            return self._rest_on(claim, Role.ADMIN)
        tags = frozenset(tag for certificate in certified for tag in certificate.tags)
        whole = self.entitling(claim.batch, Role.APPROVER)
        claim.rests_on = whole or self.entitling(claim.batch, Role.APPROVER, tags)
        claim.needs = {Role.APPROVER}
        if not claim.rests_on:
            return "grant.role"
        if not whole:
            claim.scope = frozenset.intersection(*(frozenset(c.grant.scope) for c in claim.rests_on if c.grant))
        return None

    def _rest_on(self, claim: Claim, need: Role) -> str | None:
        claim.needs, claim.rests_on = {need}, self.entitling(claim.batch, need)
        return None if claim.rests_on else "grant.role"

    def entitling(self, batch: SignedBatch, need: Role, scope: frozenset[str] = frozenset()) -> list[Claim]:
        return [
            c
            for c in self.grants_to(batch.batch.author)
            if c.grant and self._gives(c, batch, need, scope) and valid_at(c.grant, batch)
        ]

    def grants_to(self, subject: bytes) -> list[Claim]:
        return [c for c in self.claims if c.grant is not None and c.grant.subject == subject]

    def is_before(self, grant: Claim, batch: SignedBatch) -> bool:
        """In its past; what the authority itself signed counts for the batch that brings it, too."""
        of_authority = grant.grant is not None and grant.grant.issuer == self.mesh
        return grant.batch.hash in self.past[batch.hash] or (of_authority and grant.batch.hash == batch.hash)

    def _gives(self, grant: Claim, batch: SignedBatch, need: Role, scope: frozenset[str]) -> bool:
        held = grant.grant
        if held is None or need not in roles_of(held.roles) or not self.is_before(grant, batch):
            return False
        if not held.scope or (need is Role.MEMBER and not scope):
            return True
        return bool(scope) and scope <= set(held.scope)

    # -- checkpoints

    def _sound_checkpoints(self) -> list[Claim]:
        return [c for c in self.claims if isinstance(c.body, CheckpointEntry) and c.void is None]

    def _is_late(self, digest: bytes, checkpoint: Claim) -> bool:
        body, at = checkpoint.body, checkpoint.batch.hash
        assert isinstance(body, CheckpointEntry)
        hlc = self.admitted[digest].batch.hlc
        return hlc <= body.horizon and digest not in self.past[at] and digest != at

    def _covered(self, checkpoint: Claim) -> set[bytes]:
        assert isinstance(checkpoint.body, CheckpointEntry)
        if checkpoint.key not in self._cover:
            past, horizon = self.past[checkpoint.batch.hash], checkpoint.body.horizon
            self._cover[checkpoint.key] = self.covered_by(past, horizon)
        return self._cover[checkpoint.key]

    def covered_by(self, past: frozenset[bytes], horizon: int) -> set[bytes]:
        """What a checkpoint with this past would cover."""
        earlier = [c for c in self._sound_checkpoints() if c.batch.hash in past]
        return {
            h for h in past if self.admitted[h].batch.hlc <= horizon and not any(self._is_late(h, c) for c in earlier)
        }

    def _digest_fault(self, claim: Claim, body: CheckpointEntry) -> str | None:
        covered = sorted(self._covered(claim), key=lambda h: (self.admitted[h].batch.hlc, h))
        right = len(covered) == body.count and hashlib.sha256(b"".join(covered)).digest() == body.digest
        return None if right else "checkpoint.digest"

    # -- standings

    def _settle(self) -> None:
        for claim in self.claims:
            if claim.void is not None:
                claim.state, claim.reason = OUT, claim.void
        while undecided := [c for c in self.claims if c.state == OPEN]:
            found = False
            for claim in undecided:
                claim.waits = set()
                state, reason = self._judge(claim)
                if state != OPEN:
                    claim.state, claim.reason, found = state, reason, True
            if not found:
                self._break_circle(undecided)
        for claim in self.claims:
            if claim.void is None and claim.state == OUT and claim.reason != "conflict":
                state, claim.reason = self._judge(claim)
                assert state == OUT

    def _break_circle(self, undecided: list[Claim]) -> None:
        reach = {c.key: set(c.waits) for c in undecided}
        for _ in undecided:
            for key, found in reach.items():
                reach[key] = found.union(*(reach[other] for other in found))
        circles = [c for c in undecided if all(c.key in reach[other] for other in reach[c.key])]
        junior = max((c for c in circles if c.grant is None), key=self._seniority)
        for claim in circles:  # the most junior key loses, with all that it has in this circle
            if (
                claim.grant is None
                and claim.batch.batch.author == junior.batch.batch.author
                and (claim is junior or claim.key in reach[junior.key])
            ):
                claim.state, claim.reason = OUT, "conflict"

    def _rank(self, grant: Claim) -> tuple[int, int, bytes]:
        held = grant.grant
        assert held is not None
        if held.issuer == self.mesh:
            return (0, -held.not_before_ms, grant.grant_id)
        return (grant.depth, grant.batch.batch.hlc, grant.batch.hash)

    def _seniority(self, claim: Claim) -> tuple[tuple[int, int, bytes], Key]:
        left = [g for g in claim.rests_on if g.state != OUT and self._taken(g, claim.batch, claim.needs, set()) != IN]
        return (min(self._rank(g) for g in left), claim.key)

    def _judge(self, claim: Claim) -> tuple[str, str]:
        if claim.grant is not None and claim.grant.issuer == self.mesh:
            return IN, ""
        late, frozen = self._late(claim.batch, claim.waits), self._frozen(claim.batch, claim.waits)
        if IN in (late, frozen):
            return OUT, "late" if late == IN else "frozen"
        rival = self._rivalled(claim)
        if rival == IN:
            return OUT, "epoch"
        supports = [self._support(claim, g) for g in claim.rests_on]
        if all(state == OUT for state, _ in supports):
            return OUT, "revoked"
        held = IN if any(state == IN for state, _ in supports) else OPEN
        if held == OPEN:
            claim.waits.update(*(waits for state, waits in supports if state == OPEN))
        return (OPEN, "") if (OPEN in (late, frozen, rival) or held == OPEN) else (IN, "")

    def _support(self, claim: Claim, grant: Claim) -> tuple[str, set[Key]]:
        waits: set[Key] = {grant.key} if grant.state == OPEN else set()
        taken = self._taken(grant, claim.batch, claim.needs, waits)
        if grant.state == OUT or taken == IN:
            return OUT, set()
        return (IN, set()) if grant.state == IN and taken == OUT else (OPEN, waits)

    def _any(self, claims: Iterable[Claim], waits: set[Key]) -> str:
        states = {c.key: c.state for c in claims}
        if IN in states.values():
            return IN
        opened = {key for key, state in states.items() if state == OPEN}
        waits |= opened
        return OPEN if opened else OUT

    def _late(self, batch: SignedBatch, waits: set[Key]) -> str:
        return self._any((c for c in self._sound_checkpoints() if self._is_late(batch.hash, c)), waits)

    def _rivalled(self, claim: Claim) -> str:
        if not isinstance(claim.body, CheckpointEntry):
            return OUT
        same = [
            c
            for c in self._sound_checkpoints()
            if c is not claim and isinstance(c.body, CheckpointEntry) and c.body.epoch == claim.body.epoch
        ]
        return self._any(same, claim.waits)

    def _taken(self, grant: Claim, batch: SignedBatch, needs: set[Role], waits: set[Key]) -> str:
        """Whether a revocation takes this grant away from what its subject does in this batch."""
        result, mine = OUT, set()
        for revocation in self.claims:
            body = revocation.body
            if not isinstance(body, RevokeEntry) or revocation.state == OUT or body.target != batch.batch.author:
                continue
            if revocation.batch.hash == batch.hash or needs <= self.left(grant, revocation, body):
                continue
            if body.cut_head is not None and batch.hash in self.line[body.cut_head]:
                continue
            if self.knows(grant, revocation):
                continue
            why: set[Key] = set()
            final = [
                c
                for c in self._sound_checkpoints()
                if batch.hash in self._covered(c) and revocation.batch.hash not in self.past[c.batch.hash]
            ]
            shield = self._any(final, why)
            if shield == IN:
                continue
            if revocation.state == IN and shield == OUT:
                return IN
            result = OPEN
            mine |= why | ({revocation.key} if revocation.state == OPEN else set())
        waits |= mine
        return result

    def left(self, grant: Claim, revocation: Claim, body: RevokeEntry) -> set[Role]:
        assert grant.grant is not None
        held = set(grant.grant.roles)
        if Role.APPROVER in revocation.needs:
            own = set() if grant.certificate is None else set(grant.certificate.tags)
            if grant.certificate is None or (revocation.scope and not (own and own <= revocation.scope)):
                return roles_of(held)
        kept = held - set(body.roles) if body.roles else set()
        if Role.ADMIN in revocation.needs:
            kept |= held & STRONG
        return roles_of(kept)

    def knows(self, grant: Claim, revocation: Claim) -> bool:
        assert grant.grant is not None
        if revocation.batch.hash not in self.past[grant.batch.hash]:
            return False
        return grant.grant.issuer != self.mesh or grant.grant.not_before_ms >= revocation.batch.batch.hlc >> 16

    def _frozen(self, batch: SignedBatch, waits: set[Key]) -> str:
        result, mine = OUT, set()
        for step in self.line[batch.hash]:
            here = self.admitted[step].batch
            rivals = [
                h
                for h, other in self.admitted.items()
                if other.batch.author == here.author and other.batch.prev == here.prev and h != step
            ]
            if not rivals:
                continue
            why: set[Key] = set()
            cleared = self._cleared(step, why)
            if cleared == IN:
                continue
            final = [
                c
                for c in self._sound_checkpoints()
                if batch.hash in self._covered(c) and not any(h in self._covered(c) for h in rivals)
            ]
            outlives = self._any(final, why)
            if outlives == IN:
                continue
            if cleared == outlives == OUT:
                return IN
            result = OPEN
            mine |= why
        waits |= mine
        return result

    def _cleared(self, step: bytes, waits: set[Key]) -> str:
        here = self.admitted[step].batch
        decisions = [
            (c, self.line[c.body.keep])
            for c in self.claims
            if isinstance(c.body, ThawEntry) and c.state != OUT and c.body.author == here.author
            if len(self.line[c.body.keep]) >= here.seq
        ]
        if not any(line[here.seq - 1] == step for _, line in decisions):
            return OUT  # whichever of them come into force
        opened = {c.key for c, _ in decisions if c.state == OPEN}
        if opened:
            waits |= opened
            return OPEN
        latest = [
            line
            for c, line in decisions
            if not any(c.batch.hash in self.past[other.batch.hash] for other, _ in decisions)
        ]
        return IN if all(line[here.seq - 1] == step for line in latest) else OUT

    # -- effects

    def _effect(self, batch: SignedBatch, index: int) -> str | None:
        body = self.body(batch, index)
        if isinstance(body, str):
            return body
        if isinstance(body, AnnounceEntry):
            return self.verdict(batch, Role.MEMBER, frozenset())
        if isinstance(body, AttachEntry):
            return self.verdict(batch, Role.MEMBER, frozenset()) or self._proof_fault(batch, body)
        if isinstance(body, SecretEntry):
            return self.verdict(batch, Role.ADMIN, frozenset())
        if isinstance(body, TokenEntry | RetireEntry | EnrolEntry | DecideEntry):
            return entry_fault(self, batch, body)
        if isinstance(body, ChangeEntry):
            return None  # asked with the scope of what it touches: `verdict`
        claim = next(c for c in self.claims if c.batch.hash == batch.hash and c.index == index)
        return None if claim.state == IN else claim.reason

    def _proof_fault(self, batch: SignedBatch, body: AttachEntry) -> str | None:
        said = b"x0t/attach/1" + self.mesh + batch.batch.author + body.key
        try:
            Ed25519PublicKey.from_public_bytes(body.key).verify(body.proof, said)
        except (InvalidSignature, ValueError):
            return "attach.proof"
        return None

    def verdict(self, batch: SignedBatch, need: Role, scope: frozenset[str], *, by: bytes | None = None) -> str | None:
        """Why the author may not do here what needs this role over this scope (`by` this grant alone), or None."""
        if self._late(batch, set()) == IN:
            return "late"
        if self._frozen(batch, set()) == IN:
            return "frozen"
        able = [c for c in self.grants_to(batch.batch.author) if self._gives(c, batch, need, scope)]
        able = [c for c in able if by is None or c.grant_id == by]
        timely = [c for c in able if c.grant and valid_at(c.grant, batch)]
        if any(c.state == IN and self._taken(c, batch, {need}, set()) != IN for c in timely):
            return None
        return "revoked" if timely else "expired" if able else "role"


def _narrower(child: Grant, parent: Grant | None) -> bool:
    return (
        parent is not None
        and set(child.roles) <= roles_of(parent.roles)
        and (not parent.scope or (bool(child.scope) and set(child.scope) <= set(parent.scope)))
        and child.delegate < parent.delegate
        and parent.not_before_ms <= child.not_before_ms
        and child.not_after_ms <= parent.not_after_ms
    )
