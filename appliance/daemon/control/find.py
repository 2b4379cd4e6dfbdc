"""From what a person typed to a node or a token."""

from __future__ import annotations

from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId, TokenId
from appliance.daemon.mesh import FollowedMesh
from appliance.policy.names import SHORT_CHARS, is_id_begun


async def find_node(mesh: FollowedMesh, text: str) -> bytes:
    """A node by its id, by the beginning of its id, or by the name that an admin gave it.

    Never by the name that it gave itself: who calls himself like another would get what is meant for that one.
    Raises `id.text` or `replica.ambiguous`.
    """
    try:
        return NodeId.parse(text).raw
    except X0tError as err:
        meant = {node for node, name in (await mesh.queries.names()).items() if name == text}
        if is_id_begun(text) and len(text) >= SHORT_CHARS:
            known = {member.node for member in await mesh.queries.members()}
            known |= {view.row.node for view in await mesh.admission_queries.admissions()}
            meant |= {node for node in known if str(NodeId(node)).startswith(text)}
        if len(meant) > 1:
            raise error("replica.ambiguous", text=text) from err
        if not meant:
            raise
        return meant.pop()


async def find_token(mesh: FollowedMesh, text: str) -> bytes:
    """A token by its id or the beginning of it. Raises `id.text`, `replica.ambiguous` or `replica.not_found`."""
    try:
        return TokenId.parse(text).raw
    except X0tError as err:
        begins = f"{TokenId.HRP}1"
        if not text.startswith(begins) or len(text) < len(begins) + 8:
            raise
        ids = {view.row.token for view in await mesh.admission_queries.tokens()}
        meant = [token for token in ids if str(TokenId(token)).startswith(text)]
        if len(meant) > 1:
            raise error("replica.ambiguous", text=text) from err
        if not meant:
            raise error("replica.not_found", what=f"token {text}") from err
        return meant[0]
