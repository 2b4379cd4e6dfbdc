"""Marks: the entries that give or take authority, each with what it rests on and what is known of its standing.

A mark is made once, when its batch is admitted, from the batch's causal past alone; so every replica makes the same
one. Only its standing can change later, when a revocation, a fork or a checkpoint arrives; `authority` settles that.
"""

from __future__ import annotations

import enum
from collections.abc import Set
from functools import lru_cache
from typing import Final

from appliance.replica.ancestry import Meta
from appliance.replica.entries import AuthorityBody, CertifyEntry, GrantEntry, RevokeEntry
from appliance.trust.grants import Grant, Role, implied_roles

STRONG = frozenset({Role.OWNER, Role.ADMIN})  # only an owner takes these away
OPENED = GrantEntry(grant=b"")  # stands for a signed grant, which is 5 KiB and stays in the log
CERTIFIED = CertifyEntry(certificate=b"", rule="")  # stands for a node certificate, which is 8 KiB
NO_ROLES: Final[frozenset[Role]] = frozenset()
NO_TAGS: Final[frozenset[str]] = frozenset()
Rank = tuple[int, int, bytes]
Key = tuple[int, bytes, int]  # place of a mark in the fold: (hlc, batch hash, entry index)


class Standing(enum.Enum):
    """Whether a mark has effect. OPEN exists only while standings are being settled."""

    IN = "in"
    OUT = "out"
    OPEN = "open"


class Mark:
    """One authority entry. Identity is (batch hash, entry index); mutable in what is known of its standing only."""

    __slots__ = (
        "body", "cut", "depth", "grant", "grant_id", "in_force", "index", "keep", "meta", "needs", "reason", "root",
        "scope", "standing", "stuck", "supports", "tags", "void",
    )  # fmt: skip

    def __init__(self, meta: Meta, index: int, body: AuthorityBody) -> None:
        self.meta = meta
        self.index = index
        self.body = body
        self.supports: tuple[Mark, ...] = ()  # grants in the causal past that entitle the author
        self.needs: frozenset[Role] = NO_ROLES  # roles that a support must still give
        self.root = False  # a grant signed by the mesh authority itself needs no support
        self.void: str | None = None  # a reason that no later arrival can lift
        self.grant: Grant | None = None  # of a node certificate: what it gives, as a grant of `member`
        self.grant_id = b""
        self.tags: frozenset[str] | None = None  # of a node certificate: those that it gives; else None
        self.scope: frozenset[str] = NO_TAGS  # of an approver's revocation: tags that it reaches; empty: all nodes
        self.depth = 0  # of a grant: delegations between it and the authority
        self.cut: Meta | None = None  # of a revocation: last batch of the target that keeps its effect
        self.keep: Meta | None = None  # of a thaw: a batch on the branch that counts again
        self.standing = Standing.OPEN
        self.in_force = False  # as `standing` was settled last; may be read from any thread, even while it is settled
        self.reason = ""
        self.stuck = False  # frozen, whatever else comes into force or out of it

    @property
    def key(self) -> Key:
        """Place in the fold: (hlc, batch hash, entry index)."""
        return (self.meta.hlc, self.meta.hash, self.index)

    @property
    def rank(self) -> Rank:
        """Of a grant; smaller is more senior. First the delegations between it and the authority.

        Among the authority's own grants the newest comes first, so that the authority can overrule a stolen key; its
        time is signed. Among others the earliest does. A key has no say in the rank of its own grants.
        """
        if self.root and self.grant is not None:
            return (0, -self.grant.not_before_ms, self.grant_id)
        return (self.depth, self.meta.hlc, self.meta.hash)

    @property
    def taken(self) -> frozenset[Role]:
        """Of a revocation: the roles that it takes; empty for all."""
        return frozenset(self.body.roles) if isinstance(self.body, RevokeEntry) else frozenset()

    @property
    def weak(self) -> bool:
        """Of a revocation: its author was no owner, so it takes nothing that only an owner takes away."""
        return Role.ADMIN in self.needs

    @property
    def narrow(self) -> bool:
        """Of a revocation: its author was an approver and no more, so it takes node certificates alone."""
        return Role.APPROVER in self.needs

    def roles_left(self, revocation: Mark) -> frozenset[Role]:
        """Roles that a grant still gives after this revocation, if it does not answer it."""
        if self.grant is None:
            return frozenset()
        held = frozenset(self.grant.roles)
        if revocation.narrow and not (self.tags is not None and covers(revocation.scope, self.tags)):
            return implied_roles(tuple(held))
        kept = held - revocation.taken if revocation.taken else frozenset()
        return implied_roles(tuple(kept | (held & STRONG if revocation.weak else frozenset())))


@lru_cache(1024)
def role_set(roles: tuple[Role, ...]) -> frozenset[Role]:
    """The set of these: one object for all marks that have the same, for each takes 216 bytes."""
    return frozenset(roles)


@lru_cache(1024)
def tag_set(tags: tuple[str, ...]) -> frozenset[str]:
    """As `role_set`, of tags."""
    return frozenset(tags)


def covers(scope: Set[str], tags: Set[str]) -> bool:
    """True if a right over this scope (empty: the whole mesh) reaches what has these tags (none: the whole mesh)."""
    return not scope or (bool(tags) and tags <= scope)
