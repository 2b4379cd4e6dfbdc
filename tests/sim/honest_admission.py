"""What gateways and approvers do at an honest node: the same as the operations, by all that the node knows.

Only the last check is left out, of what the node itself could have found to be without effect: now and then somebody
decides about a node that stands otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from appliance.replica.admission_queries import admission_of, tokens
from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    RetireEntry,
    RevokeEntry,
    TokenEntry,
)
from appliance.replica.rows import AdmissionRow
from appliance.trust.grants import peek_grant
from appliance.trust.tokens import peek_token, token_id
from tests.sim import papers
from tests.sim.admission_scribe import Drawer
from tests.sim.node import Node
from tests.sim.world import START_MS, Member, Mesh

KINDS = (*("enrol",) * 5, *("approve",) * 4, "decide", "decide", "token", "retire", "put out")


def honest_admission(
    node: Node, newcomers: Sequence[Member], grants: list[bytes], drawer: Drawer, rng: random.Random
) -> tuple[EntryBody, ...]:
    """The entries of a batch, none if there is nothing to do; `grants` are those of the node, signed."""
    other = rng.choice(newcomers)
    match rng.choice(KINDS):
        case "token":
            return _token(node, grants[0], drawer, rng)
        case "retire":
            known = [view.row.token for view in tokens(node.engine) if not view.ended]
            return (RetireEntry(rng.choice(known), ""),) if known and rng.random() < 0.4 else ()
        case "enrol":
            return _enrol(node, other, drawer, rng) or _token(node, grants[0], drawer, rng)
        case "approve":
            waiting = [row.node for row in node.view.select(AdmissionRow, "state", "pending")]
            chosen = [member for member in newcomers if member.id in waiting]
            return _certify(node, rng.choice(chosen or newcomers), grants[0], drawer, rng)
        case "put out":
            cut = node.engine.authority.live_head(other.id)
            revocation = RevokeEntry(other.id, (), cut.seq if cut else 0, cut.hash if cut else None, "")
            return revocation, DecideEntry(other.id, rng.choice((Action.EVICT, Action.BAN)), "", "")
        case _:
            return (DecideEntry(other.id, rng.choice((*Action, Action.RESUME, Action.UNBAN)), "", ""),)


def token_for_all(mesh: Mesh, issuer: Member, grant: bytes, drawer: Drawer, uses: int) -> TokenEntry:
    """A token that all honest nodes may take, so that it is redeemed on two islands."""
    gateways = [mesh.member(name) for name in ("anna", "bert", "cleo")]
    blob = papers.token(mesh, issuer, grant, gateways, tags=("robot",), uses=uses, number=drawer.next())
    drawer.tokens.append(blob)
    return TokenEntry(blob, "")


def _token(node: Node, grant: bytes, drawer: Drawer, rng: random.Random) -> tuple[EntryBody, ...]:
    return (token_for_all(node.mesh, node.member, grant, drawer, rng.choice((1, 1, 2))),)


def _enrol(node: Node, other: Member, drawer: Drawer, rng: random.Random) -> tuple[EntryBody, ...]:
    """With a token that the node knows and that has a use left, by what it knows."""
    open_ = {view.row.token for view in tokens(node.engine) if view.state(START_MS) == "open"}
    blobs = [blob for blob in drawer.tokens if token_id(blob) in open_ and node.member.id in _gateways(blob)]
    if not blobs:
        return ()
    token = rng.choice(blobs)
    drawer.asked.append((token, other))
    return (EnrolEntry(token, papers.request(node.mesh, other, token)),)


def _gateways(blob: bytes) -> set[bytes]:
    return {end.node for end in peek_token(blob).endpoints}


def _certify(node: Node, other: Member, grant: bytes, drawer: Drawer, rng: random.Random) -> tuple[EntryBody, ...]:
    """For the enrolment under which the newcomer stands, by what the node knows."""
    admission = admission_of(node.engine, other.id)
    asked = admission.enrolment
    held = peek_grant(grant)
    blob = papers.certificate(
        node.mesh,
        node.member,
        grant,
        other,
        enrolment=None if asked is None else asked.enrolment,
        tags=admission.tags or rng.choice(((), ("robot",))),
        times=(held.not_before_ms, held.not_after_ms),
        number=drawer.next(),
    )
    drawer.certificates.append(blob)
    return (CertifyEntry(blob, ""),)
