"""A law: the fold, which gets a chain grant by grant, accepts what `check_chain` accepts, which gets it whole."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import event, given
from hypothesis import strategies as st

from appliance.core.errors import X0tError
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import GrantEntry
from appliance.trust.grants import Role, check_chain
from tests.sim.world import FAR_MS, START_MS, Mesh

roles = st.sets(st.sampled_from(Role), min_size=1).map(lambda found: tuple(sorted(found)))
scopes = st.sets(st.sampled_from(["a", "b", "c"])).map(lambda found: tuple(sorted(found)))


class Step(NamedTuple):
    """One grant of a chain, as drawn: what it says, and whether it is forged or rests on the wrong parent."""

    roles: tuple[Role, ...]
    scope: tuple[str, ...]
    delegate: int
    early_ms: int  # how long before the start it begins; the chain is published after the start,
    late_ms: int  # and how long after FAR_MS it ends
    inherit: bool  # say what the parent says, with one level less
    forged: bool
    parent: int  # how far up the grant is that it names; 0 is the true parent


steps = st.builds(
    Step,
    roles=roles,
    scope=scopes,
    delegate=st.sampled_from([0, 1, 2, 3, 3, 3, 4]),
    early_ms=st.integers(0, 2),
    late_ms=st.integers(0, 2),
    inherit=st.sampled_from([True, True, True, False]),
    forged=st.sampled_from([False] * 9 + [True]),
    parent=st.sampled_from([0] * 9 + [1]),
)


def _forged(blob: bytes) -> bytes:
    return blob[:-1] + bytes([blob[-1] ^ 1])


def _published(mesh: Mesh, drawn: list[Step]) -> list[bytes]:
    """The chain (root first), with each grant published by its issuer and the root by its subject."""
    blobs: list[bytes] = []
    said: list[Step] = []
    issuer, batches = None, list[SignedBatch]()
    for number, step in enumerate(drawn):
        subject = mesh.member(f"holder {number}")
        if said and step.inherit:
            upper = said[-1]
            step = upper._replace(delegate=max(upper.delegate - 1, 0), forged=step.forged, parent=step.parent)
        blob = mesh.grant(
            issuer,
            subject,
            *step.roles,
            parent=blobs[max(number - 1 - step.parent, 0)] if blobs else None,
            delegate=step.delegate,
            scope=step.scope,
            times=(START_MS - step.early_ms, FAR_MS + step.late_ms),
        )
        blobs.append(_forged(blob) if step.forged else blob)
        batches.append(mesh.write(issuer or subject, GrantEntry(blobs[-1]), after=batches[-1:]))
        said.append(step)
        issuer = subject
    return blobs


@given(st.lists(steps, min_size=1, max_size=5))
def test_the_fold_accepts_a_chain_exactly_when_the_check_without_a_log_does(drawn: list[Step]) -> None:
    mesh = Mesh()
    blobs = _published(mesh, drawn)
    replica = mesh.replica()
    replica.take(*mesh.batches.values())
    *_, last = mesh.batches.values()
    folded = replica.view.lookup(last.hash) is not None and replica.reason(last) is None
    try:
        check_chain(blobs[::-1], mesh.id, mesh.authority_key, mesh.verify)
        checked, why = True, ""
    except X0tError as err:
        checked, why = False, err.key
    event(f"{len(drawn)} links: {why or 'accepted'}")
    assert folded == checked, why
