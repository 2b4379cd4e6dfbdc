"""What must hold of admission at every replica, whatever came to pass."""

from __future__ import annotations

from collections import Counter

from appliance.replica.engine import Engine
from appliance.replica.entries import CertifyEntry, parse
from appliance.replica.membership import network
from appliance.replica.rows import AdmissionRow, EnrolmentRow, SurplusRow, TokenRow
from appliance.trust.certificates import peek_certificate
from appliance.trust.grants import Role
from tests.sim.oracle import Oracle


def tally(engine: Engine) -> Counter[str]:
    """How many nodes stand how, and how many tokens did not carry a node."""
    counts: Counter[str] = Counter()
    counts.update(f"admission: {row.state}" for row in engine.view.rows(AdmissionRow) if isinstance(row, AdmissionRow))
    counts.update(f"surplus: {row.reason}" for row in engine.view.rows(SurplusRow) if isinstance(row, SurplusRow))
    return counts


def overdrawn(engine: Engine) -> list[str]:
    """Tokens that carry more nodes than they have uses."""
    uses = {row.token: row.uses for row in engine.view.rows(TokenRow) if isinstance(row, TokenRow)}
    asked = {(row.token, row.node) for row in engine.view.rows(EnrolmentRow) if isinstance(row, EnrolmentRow)}
    left_out = {(row.token, row.node) for row in engine.view.rows(SurplusRow) if isinstance(row, SurplusRow)}
    carried = [token for token, _ in asked - left_out]
    over = {token for token in carried if carried.count(token) > uses.get(token, 0)}
    return [f"the token {token.hex()[:6]} has more winners than uses" for token in sorted(over)]


def intruders(engine: Engine, now_ms: int) -> list[str]:
    """Members of the network, or nodes that may connect, who are not approved and hold no grant either."""
    authority = engine.authority
    by_grant = {
        node
        for node, marks in authority.grants.items()
        if any(mark.tags is None and authority.gives(mark, now_ms) for mark in marks)
    }
    rows = [row for row in engine.view.rows(AdmissionRow) if isinstance(row, AdmissionRow)]
    approved = {row.node for row in rows if row.state == "approved"}
    trusted = {view.node for view in network(engine, now_ms).members if Role.MEMBER.value in view.roles}
    permitted = {node for node in authority.grants if engine.holds(node, Role.MEMBER, now_ms)}
    return [f"{node.hex()[:6]} is in the network" for node in sorted((trusted | permitted) - by_grant - approved)]


def unentitled(engine: Engine, oracle: Oracle) -> list[str]:
    """Certificates that count and have no approver in their past who was entitled to give them."""
    found: list[str] = []
    for node, (digest, entry) in sorted(engine.authority.admitted.items()):
        batch = oracle.admitted[digest]
        body = parse(*batch.batch.entries[entry])
        assert isinstance(body, CertifyEntry)
        said = peek_certificate(body.certificate)
        fault = oracle.verdict(batch, Role.APPROVER, frozenset(said.tags), by=said.parent)
        if fault is not None or (said.issuer, said.subject) != (batch.batch.author, node):
            found.append(f"{node.hex()[:6]} is a member by a certificate of nobody's ({fault})")
    return found
