"""Marking: makes marks from authority entries, judging each by its batch's causal past.

What is found wrong here (a forged or widened grant, a cut that is not the target's, a missing role) is wrong on every
replica and for ever, so the mark is void from the start. Whether a sound mark has effect is for `authority` to settle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import Verify
from appliance.replica.entries import (
    AuthorityBody,
    CertifyEntry,
    CheckpointEntry,
    GrantEntry,
    RevokeEntry,
    ThawEntry,
)
from appliance.replica.marks import CERTIFIED, OPENED, STRONG, Mark, role_set, tag_set
from appliance.trust.certificates import as_grant, certificate_id, certifies, open_certificate
from appliance.trust.grants import Grant, Role, grant_id, narrows, open_grant, peek_grant

Lookup = Callable[[bytes], Meta | None]


class Marker:
    """Makes the marks of one mesh. `verify(public_key, message, signature, context)` is a provider's."""

    def __init__(
        self, mesh: bytes, authority_key: bytes, authority: Authority, verify: Verify, limits: Limits = LIMITS
    ) -> None:
        self._mesh = mesh
        self._authority_key = authority_key
        self._authority = authority
        self._verify = verify
        self._limits = limits

    def opening(self, meta: Meta, entries: Sequence[tuple[int, AuthorityBody]]) -> list[Grant]:
        """Grants by the mesh authority to the batch's own author: with one of these a log may begin."""
        found: list[Grant] = []
        for _, body in entries:
            if isinstance(body, GrantEntry):
                try:
                    grant = self._open(meta, body.grant)
                except X0tError:
                    continue
                if grant.issuer == self._mesh and grant.subject == meta.author:
                    found.append(grant)
        return found

    def marks(self, meta: Meta, entries: Sequence[tuple[int, AuthorityBody]], lookup: Lookup) -> Iterator[Mark]:
        """One mark for each authority entry of a batch; each is to be added before the next is made."""
        for index, body in entries:
            yield self._mark(Mark(meta, index, body), lookup)

    def _mark(self, mark: Mark, lookup: Lookup) -> Mark:
        body = mark.body
        try:
            if isinstance(body, GrantEntry):
                self._mark_grant(mark, body)
            elif isinstance(body, RevokeEntry):
                self._mark_revocation(mark, body, lookup)
            elif isinstance(body, ThawEntry):
                self._mark_thaw(mark, body, lookup)
            elif isinstance(body, CertifyEntry):
                self._mark_certificate(mark, body)
            else:
                self._mark_checkpoint(mark, body)
        except X0tError as err:
            mark.void, mark.grant, mark.tags = err.key, None, None
        return mark

    def _mark_grant(self, mark: Mark, body: GrantEntry) -> None:
        grant = self._open(mark.meta, body.grant)
        mark.grant, mark.grant_id = grant, grant_id(body.grant)
        mark.body = OPENED  # the signed form is 5 KiB and stays in the log
        if self._is_copy(mark):
            raise error("grant.repeated")
        if grant.issuer == self._mesh:
            mark.root = True
            return
        mark.needs = role_set(grant.roles)
        self._rest_on_parents(mark, grant, lambda parent: narrows(grant, parent), error("grant.issuer"))
        if mark.depth >= self._limits.grant_depth:
            raise error("grant.depth", limit=self._limits.grant_depth)

    def _mark_certificate(self, mark: Mark, body: CertifyEntry) -> None:
        key = self._key_before(mark.meta)
        if key is None:
            raise error("certificate.issuer")
        certificate = open_certificate(body.certificate, self._verify, key, self._limits)
        mark.grant, mark.grant_id = as_grant(certificate), certificate_id(body.certificate)
        mark.tags, mark.body = tag_set(certificate.tags), CERTIFIED
        if self._is_copy(mark):
            raise error("certificate.repeated")
        mark.needs = role_set((Role.APPROVER,))
        reason = error("certificate.issuer")
        self._rest_on_parents(mark, mark.grant, lambda parent: certifies(certificate, parent), reason)

    def _rest_on_parents(self, mark: Mark, grant: Grant, check: Callable[[Grant], None], reason: X0tError) -> None:
        """Rest on the issuer's grants in the past that pass the check: more than one if it was published twice."""
        supports: list[Mark] = []
        for parent in self._authority.grants.get(grant.issuer, ()):
            if parent.grant is None or parent.void is not None or parent.grant_id != grant.parent:
                continue
            if not self._authority.precedes(parent, mark.meta) or not self._authority.in_time(parent, mark.meta):
                continue
            try:
                check(parent.grant)
            except X0tError as err:
                reason = err
                continue
            supports.append(parent)
        if not supports:
            raise reason
        mark.supports = tuple(supports)
        mark.depth = 1 + min(parent.depth for parent in supports)

    def _is_copy(self, mark: Mark) -> bool:
        """True if what a mark publishes was published before, in its past or its batch."""
        published = self._authority.grants.get(mark.grant.subject, ()) if mark.grant is not None else ()
        return any(other.grant_id == mark.grant_id and self._is_published(other, mark) for other in published)

    def _is_published(self, earlier: Mark, mark: Mark) -> bool:
        return earlier.meta.hash == mark.meta.hash or self._authority.ancestry.precedes(earlier.meta, mark.meta)

    def _open(self, meta: Meta, blob: bytes) -> Grant:
        """The grant, if its issuer signed it and its issuer is who publishes it (or the mesh authority)."""
        issuer = peek_grant(blob).issuer
        if issuer == self._mesh:
            key: bytes | None = self._authority_key
        else:
            key = self._key_before(meta) if issuer == meta.author else None
        if key is None:
            raise error("grant.issuer")
        grant = open_grant(blob, self._verify, key)
        if grant.mesh != self._mesh:
            raise error("grant.mesh")
        return grant

    def _key_before(self, meta: Meta) -> bytes | None:
        """The author's key by a grant in the batch's past: another that came by chance must not matter."""
        grants = self._authority.grants.get(meta.author, ())
        return next((g.grant.subject_key for g in grants if g.grant and self._authority.precedes(g, meta)), None)

    def _mark_revocation(self, mark: Mark, body: RevokeEntry, lookup: Lookup) -> None:
        if body.cut_head is not None:
            cut = lookup(body.cut_head)
            if cut is None or cut.author != body.target or cut.seq != body.cut_seq:
                raise error("revoke.cut")
            mark.cut = cut
        elif body.cut_seq:
            raise error("revoke.cut")
        before = self._authority.revocations.get(body.target, ())
        mine = sum(other.meta.author == mark.meta.author and self._is_published(other, mark) for other in before)
        if mine >= self._limits.revocations_per_target:
            raise error("revoke.repeated", limit=self._limits.revocations_per_target)
        held = [g for g in self._authority.grants.get(body.target, ()) if self._authority.precedes(g, mark.meta)]
        strong = any(g.grant is not None and not STRONG.isdisjoint(g.grant.roles) for g in held)
        if body.target == mark.meta.author:
            self._rest_on(mark, Role.MEMBER)
        elif strong or self._supports(mark, Role.OWNER):
            self._rest_on(mark, Role.OWNER)
        elif any(g.tags is None for g in held) or not held or self._supports(mark, Role.ADMIN):
            self._rest_on(mark, Role.ADMIN)
        else:
            self._rest_on_approver(mark, frozenset().union(*(g.tags or () for g in held)))

    def _rest_on_approver(self, mark: Mark, tags: frozenset[str]) -> None:
        """An approver takes from a node that holds nothing but certificates what lies within its own scope."""
        mark.needs = role_set((Role.APPROVER,))
        mark.supports = self._supports(mark, Role.APPROVER) or self._supports(mark, Role.APPROVER, tags)
        if not mark.supports:
            raise error("grant.role", role=Role.APPROVER.value)
        scopes = [frozenset(support.grant.scope) for support in mark.supports if support.grant is not None]
        mark.scope = frozenset.intersection(*scopes)

    def _mark_thaw(self, mark: Mark, body: ThawEntry, lookup: Lookup) -> None:
        keep = lookup(body.keep)
        if keep is None or keep.author != body.author:
            raise error("thaw.keep")
        mark.keep = keep
        if body.author == mark.meta.author:
            raise error("thaw.self")
        self._rest_on(mark, Role.OWNER)

    def _mark_checkpoint(self, mark: Mark, body: CheckpointEntry) -> None:
        if body.horizon >= mark.meta.hlc:
            raise error("checkpoint.horizon")
        self._rest_on(mark, Role.OWNER)

    def _rest_on(self, mark: Mark, need: Role) -> None:
        mark.needs = role_set((need,))
        mark.supports = self._supports(mark, need)
        if not mark.supports:
            raise error("grant.role", role=need.value)

    def _supports(self, mark: Mark, need: Role, scope: frozenset[str] = frozenset()) -> tuple[Mark, ...]:
        """Grants in the past of the mark that give its author this role over these tags (none: the whole mesh)."""
        return tuple(
            grant
            for grant in self._authority.grants.get(mark.meta.author, ())
            if self._authority.entitles(grant, mark.meta, need, scope) and self._authority.in_time(grant, mark.meta)
        )
