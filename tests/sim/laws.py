"""What must hold of every history, and the shortest history that breaks it, told in words."""

from __future__ import annotations

import random
from collections.abc import Callable

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.replica.batch import SignedBatch, parse_batch
from appliance.replica.document_kinds import DOCUMENTS
from appliance.replica.documents import Documents
from appliance.replica.entries import (
    CertifyEntry,
    ChangeEntry,
    CheckpointEntry,
    DecideEntry,
    EnrolEntry,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    ThawEntry,
    TokenEntry,
    parse,
)
from appliance.replica.rows import AdmissionRow, IdleRow, SurplusRow
from appliance.trust.certificates import peek_certificate
from appliance.trust.enrolment import peek_request
from appliance.trust.grants import peek_grant
from appliance.trust.tokens import peek_token, token_id
from tests.sim.admission_oracle import AdmissionOracle, Standing
from tests.sim.histories import History
from tests.sim.oracle import Oracle
from tests.sim.world import START_MS, Mesh, Replica, log_rows

_FORMS = Documents(lambda _name: ())
Reasons = dict[tuple[bytes, int], str | None]


def expected(oracle: Oracle) -> Reasons:
    """What the oracle says of every entry: None if it has effect, else why not."""
    found: Reasons = dict(oracle.effects)
    for batch in oracle.admitted.values():
        for index in range(len(batch.batch.entries)):
            if batch.batch.entries[index][0] == "change":
                found[batch.hash, index] = _of_change(oracle, batch, index)
    return found


def _of_change(oracle: Oracle, batch: SignedBatch, index: int) -> str | None:
    """The form of a change and the right to make it; whether it fits the document is not a question of authority."""
    try:
        body = parse(*batch.batch.entries[index])
        assert isinstance(body, ChangeEntry)
        change = _FORMS.decode(body)
        name = (body.document, body.epoch)
        scope = _FORMS.scope(name, change)
    except X0tError as err:
        return "malformed" if err.key == "entry.malformed" else err.key
    return oracle.verdict(batch, DOCUMENTS[name].need, scope)


def disagreements(replica: Replica, oracle: Oracle) -> list[str]:
    """Where a replica that holds every batch differs from the oracle; empty if all is well."""
    held = {digest for _, digest, _ in log_rows(replica.log)}
    found = [f"{digest.hex()[:6]} is in one log only" for digest in held ^ set(oracle.admitted)]
    if found:
        return found
    reasons = replica.reasons()
    for (digest, index), reason in expected(oracle).items():
        kind = oracle.admitted[digest].batch.entries[index][0]
        mine = reasons.get((digest, index))
        does_not_fit = kind == "change" and reason is None and mine is not None and mine.startswith("change.")
        if mine != reason and not does_not_fit:
            found.append(f"{kind} of {digest.hex()[:6]}: {mine} and not {reason}")
    return found + _admission_disagreements(replica, AdmissionOracle(oracle))


def _admission_disagreements(replica: Replica, oracle: AdmissionOracle) -> list[str]:
    rows = [row for row in replica.view.rows(AdmissionRow) if isinstance(row, AdmissionRow)]
    surplus = [row for row in replica.view.rows(SurplusRow) if isinstance(row, SurplusRow)]
    idle = [row for row in replica.view.rows(IdleRow) if isinstance(row, IdleRow)]
    pairs: tuple[tuple[str, object, object], ...] = (
        ("states", {row.node: _standing(row) for row in rows}, oracle.standings),
        ("surplus", {(row.token, row.node): (row.reason, row.winner) for row in surplus}, oracle.surplus),
        ("idle", {(row.batch, row.entry): row.reason for row in idle}, oracle.idle),
        ("admitted", replica.engine.authority.admitted, _admitted(oracle)),
    )
    return [f"{what}: {ours} and not {theirs}" for what, ours, theirs in pairs if ours != theirs]


def _standing(row: AdmissionRow) -> Standing:
    certificate = None if row.certificate_batch is None else (row.certificate_batch, row.certificate_entry or 0)
    return Standing(
        state=row.state,
        since=row.since_hlc,
        reason=row.reason,
        actor=row.actor,
        enrolment=row.enrolment,
        tags=row.tags,
        certificate=certificate,
        winner=row.winner,
    )


def _admitted(oracle: AdmissionOracle) -> dict[bytes, tuple[bytes, int]]:
    return {node: it.certificate for node, it in oracle.standings.items() if it.state == "approved" and it.certificate}


def deliver(replica: Replica, batches: list[SignedBatch], rng: random.Random) -> None:
    """In any order and any grouping; some groups are durable long before they are folded."""
    waiting = list(batches)
    rng.shuffle(waiting)
    while waiting:
        size = rng.randint(1, 7)
        group, waiting = waiting[:size], waiting[size:]
        replica.engine.take([(parse_batch(batch.blob), False) for batch in group], replica.now_ms)
        replica.engine.commit()
        if rng.random() < 0.7:
            replica.engine.fold()
    replica.engine.fold()


def differences(left: Replica, right: Replica) -> list[str]:
    """Batches and rows that only one of them has."""
    logs = [{digest for _, digest, _ in log_rows(replica.log)} for replica in (left, right)]
    found = [f"{digest.hex()[:6]} is in one log only" for digest in logs[0] ^ logs[1]]
    for (table, ours), (_, theirs) in zip(left.dump(), right.dump(), strict=True):
        found += [f"{table}: {row}" for row in ours if row not in theirs]
        found += [f"{table} (the other): {row}" for row in theirs if row not in ours]
    return found


def hold(kind: type[History], tape: bytes, law: Callable[[History], list[str]]) -> None:
    """Fails with the shortest history that breaks the law."""
    if not law(kind(tape)):
        return
    short = shortest(tape, lambda other: bool(law(kind(other))))
    history = kind(short)
    raise AssertionError("\n".join([*law(history), story(history, history.all_seeing)]))


def shortest(tape: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """A short tape that still fails: pieces are cut out, then bytes made small (delta debugging, Zeller 1999)."""
    size = max(1, len(tape) // 2)
    while size:
        at = 0
        while at < len(tape):
            shorter = tape[:at] + tape[at + size :]
            if fails(shorter):
                tape = shorter
            else:
                at += size
        size //= 2
    for at in range(len(tape)):
        for byte in range(min(tape[at], 3)):
            plainer = tape[:at] + bytes([byte]) + tape[at + 1 :]
            if fails(plainer):
                tape = plainer
                break
    return tape


def story(history: History, replica: Replica) -> str:
    """A history as lines that a person can follow, each entry with what the oracle and the replica say of it."""
    oracle = history.oracle()
    said, held = expected(oracle), replica.reasons()
    names = _names(history.mesh, history.batches)
    lines = []
    for signed in history.batches:
        batch = signed.batch
        after = " ".join(names.get(parent, "?") for parent in batch.parents)
        lines.append(
            f"{names[signed.hash]} on {names.get(batch.prev or b'', '-')} after {after or '-'} t={_ms(batch.hlc)}"
        )
        for index, (kind, _) in enumerate(batch.entries):
            outcome = "not admitted"
            if signed.hash in oracle.admitted:
                outcome = f"oracle {said[signed.hash, index]}, replica {held.get((signed.hash, index))}"
            lines.append(f"    {kind} {_describe(signed, index, names)}: {outcome}")
    return "\n".join(lines)


def _names(mesh: Mesh, batches: list[SignedBatch]) -> dict[bytes, str]:
    people = {member.id: name for name, member in mesh.members.items()}
    labels = {b.hash: f"{people[b.batch.author]}{b.batch.seq}:{b.hash.hex()[:4]}" for b in batches}
    return {mesh.id: "authority", **people, **labels}


def _ms(hlc: int) -> int:
    return (hlc >> 16) - START_MS


def _describe(signed: SignedBatch, index: int, names: dict[bytes, str]) -> str:
    match parse(*signed.batch.entries[index]):
        case GrantEntry(blob):
            grant = peek_grant(blob)
            roles = "+".join(grant.roles)
            return f"{names[grant.issuer]} -> {names[grant.subject]}: {roles} {grant.scope} levels {grant.delegate}"
        case RevokeEntry(target, roles, seq, head, _):
            return f"of {names[target]} {'+'.join(roles) or 'all'}, cut {seq} {names.get(head or b'', '-')}"
        case ThawEntry(author, keep, _):
            return f"of {names[author]}, keep {names.get(keep, '?')}"
        case TokenEntry(blob):
            token = peek_token(blob)
            return f"{token_id(blob).hex()[:4]} of {names[token.issuer]}: {token.uses} uses, {token.tags}"
        case RetireEntry(identity):
            return identity.hex()[:4]
        case EnrolEntry(blob, request):
            return f"{names.get(node_id(peek_request(request).node_key).raw, '?')} with {token_id(blob).hex()[:4]}"
        case DecideEntry(node, action):
            return f"{action.value} {names.get(node, '?')}"
        case CertifyEntry(blob):
            held = peek_certificate(blob)
            asked = held.enrolment.hex()[:4] if held.enrolment else "-"
            return f"{names[held.issuer]} -> {names.get(held.subject, '?')} {held.tags} for {asked}"
        case CheckpointEntry() as body:
            return f"{body.epoch} up to t={_ms(body.horizon)}, {body.count} batches"
        case _:
            return ""
