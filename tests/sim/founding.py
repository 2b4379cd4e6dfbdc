"""Founding of the mesh of the simulator: what all its nodes begin with."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.replica.batch import SignedBatch
from appliance.replica.entries import GrantEntry
from appliance.trust.grants import Role
from tests.sim.admission_scribe import Drawer
from tests.sim.honest_admission import token_for_all
from tests.sim.world import Member, Mesh


def found(mesh: Mesh, members: Sequence[Member], grants: dict[bytes, list[bytes]], drawer: Drawer) -> list[SignedBatch]:
    """Anna founds; she makes bert and mona owners, who each make an admin; she publishes two tokens.

    The signed grants go into `grants`, by subject, and the tokens into the drawer.
    """

    def grant(issuer: Member | None, subject: Member, role: Role, delegate: int, parent: bytes | None) -> bytes:
        blob = mesh.grant(issuer, subject, role, delegate=delegate, parent=parent)
        grants.setdefault(subject.id, []).append(blob)
        return blob

    anna, bert, cleo, mona, nina = members[:5]
    root = grant(None, anna, Role.OWNER, 3, None)
    by_bert, by_mona = grant(anna, bert, Role.OWNER, 2, root), grant(anna, mona, Role.OWNER, 2, root)
    start = [mesh.write(anna, GrantEntry(root))]
    start.append(mesh.write(anna, GrantEntry(by_bert), GrantEntry(by_mona)))
    to_cleo, to_nina = grant(bert, cleo, Role.ADMIN, 1, by_bert), grant(mona, nina, Role.ADMIN, 1, by_mona)
    start.append(mesh.write(bert, GrantEntry(to_cleo), after=start[-1:]))
    start.append(mesh.write(mona, GrantEntry(to_nina), after=start[-1:]))
    tokens = [token_for_all(mesh, anna, root, drawer, uses) for uses in (1, 2)]
    start.append(mesh.write(anna, *tokens, after=start[-1:]))
    return start
