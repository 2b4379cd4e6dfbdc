"""Fold: from batches in their one order to the rows of the read model.

Each entry takes effect or is kept as without effect, with a reason. The verdict depends on the batch, on its causal
past and on the standings that `authority` settled; the rows depend on the entries before it in the order. Both are
functions of the set of batches, so replicas that hold the same batches hold the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.core.errors import X0tError, error
from appliance.replica.admission_fold import AdmissionFold
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import SignedBatch
from appliance.replica.change_codec import Change
from appliance.replica.document_kinds import DOCUMENTS
from appliance.replica.documents import Documents
from appliance.replica.entries import (
    AnnounceEntry,
    AttachEntry,
    AuthorityBody,
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
from appliance.replica.marks import Mark, Standing
from appliance.replica.rows import (
    AttachmentRow,
    ChangeRow,
    CheckpointRow,
    GrantRow,
    NodeRow,
    NoEffectRow,
    RevocationRow,
    SecretRow,
    ThawRow,
)
from appliance.replica.stores import State
from appliance.trust.attachment import verify_attachment
from appliance.trust.grants import Role

REASONS: Mapping[str, str] = {
    "conflict": "it stands in a circle of concurrent revocations and lost to a more senior one",
    "epoch": "another checkpoint of the same epoch, by a more senior owner, is in force",
    "expired": "the author's grant was not valid at that time",
    "frozen": "the author's log is forked and no owner has decided which branch counts",
    "late": "a checkpoint closed its epoch before it arrived",
    "malformed": "the entry does not have the form of its kind",
    "revoked": "the author's role was revoked and this lies beyond the cut",
    "role": "the author held no role that allows it in the batch's past",
    "unknown": "this release does not know the kind of entry",
}  # a reason that is not here is the key of an error


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What became of one entry. `reason` is None if it took effect, else a key of REASONS or of an error."""

    index: int
    kind: str
    reason: str | None

    @property
    def ok(self) -> bool:
        """True if the entry took effect."""
        return self.reason is None


Effects = dict[bytes, tuple[Effect, ...]]  # by batch hash


class Fold:
    """Applies batches, one after another in fold order, to the state."""

    def __init__(
        self, mesh: bytes, authority: Authority, documents: Documents, state: State, admission: AdmissionFold
    ) -> None:
        self._mesh = mesh
        self._admission = admission
        self._authority = authority
        self._documents = documents
        self._state = state

    def moves_others(self, signed: SignedBatch, meta: Meta) -> bool:
        """True if what comes after a batch in the order depends on it: a change of a document that may have effect."""
        for kind, body in signed.batch.entries:
            if kind == "change":
                try:
                    entry = parse(kind, body)
                    if isinstance(entry, ChangeEntry) and self._change_verdict(meta, entry)[1] is None:
                        return True
                except X0tError:
                    continue
        return False

    def apply(self, signed: SignedBatch, meta: Meta, *, past: bool = False) -> tuple[Effect, ...]:
        """Fold one batch; its place is that of `meta`. `past`: others that follow it were folded before."""
        if past:
            self._state.begin_past(meta.position)
        else:
            self._state.begin(meta.position)
        effects: list[Effect] = []
        for index, (kind, body) in enumerate(signed.batch.entries):
            reason = self._entry(meta, index, kind, body)
            if reason is not None:
                self._state.put(
                    NoEffectRow(
                        batch=meta.hash,
                        entry=index,
                        author=meta.author,
                        seq=meta.seq,
                        hlc=meta.hlc,
                        kind=kind,
                        reason=reason,
                    )
                )
            effects.append(Effect(index, kind, reason))
        return tuple(effects)

    def _entry(self, meta: Meta, index: int, kind: str, body: bytes) -> str | None:
        try:
            entry = parse(kind, body)
            if entry is None:
                return "unknown"
            return self._dispatch(meta, index, entry)
        except X0tError as err:
            if err.key.startswith("replica.") or err.key == "document.rebuild":
                raise  # what we hold is damaged, or cannot be read now: no verdict on the entry
            return "malformed" if err.key == "entry.malformed" else err.key

    def _dispatch(self, meta: Meta, index: int, entry: EntryBody) -> str | None:
        match entry:
            case AnnounceEntry():
                return self._announce(meta, entry)
            case AttachEntry():
                return self._attach(meta, entry)
            case SecretEntry():
                return self._secret(meta, index, entry)
            case ChangeEntry():
                return self._change(meta, index, entry)
            case TokenEntry() | RetireEntry() | EnrolEntry() | DecideEntry():
                return self._admission.take(meta, index, entry)
            case GrantEntry() | RevokeEntry() | ThawEntry() | CheckpointEntry() | CertifyEntry():
                mark = self._mark(meta, index, entry)
                self._put_mark(mark, entry)
                return mark.reason if mark.standing is Standing.OUT else None

    def _announce(self, meta: Meta, entry: AnnounceEntry) -> str | None:
        reason = self._authority.verdict(meta, Role.MEMBER)
        if reason is None:
            self._state.put(
                NodeRow(
                    node=meta.author,
                    name=entry.name,
                    endpoints=entry.endpoints,
                    software=entry.software,
                    batch=meta.hash,
                )
            )
        return reason

    def _attach(self, meta: Meta, entry: AttachEntry) -> str | None:
        reason = self._authority.verdict(meta, Role.MEMBER)
        if reason is None:
            if not verify_attachment(self._mesh, meta.author, entry.key, entry.proof):
                raise error("attach.proof")
            self._state.put(
                AttachmentRow(
                    node=meta.author,
                    key=entry.key,
                    uris=entry.uris,
                    relay=int(entry.relay),
                    hlc=meta.hlc,
                    batch=meta.hash,
                )
            )
        return reason

    def _secret(self, meta: Meta, index: int, entry: SecretEntry) -> str | None:
        reason = self._authority.verdict(meta, Role.ADMIN)
        if reason is None:
            self._state.put(SecretRow(entry.epoch, meta.hash, index, meta.author, entry.secret))
        return reason

    def _change(self, meta: Meta, index: int, entry: ChangeEntry) -> str | None:
        name = (entry.document, entry.epoch)
        change, reason = self._change_verdict(meta, entry)
        if reason is not None:
            return reason
        self._documents.admit(name, change, entry.chunk, meta.author)
        self._state.put(
            ChangeRow(
                document=name[0],
                epoch=name[1],
                change=change.hash,
                batch=meta.hash,
                entry=index,
                hlc=meta.hlc,
            )
        )
        return None

    def _change_verdict(self, meta: Meta, entry: ChangeEntry) -> tuple[Change, str | None]:
        change = self._documents.decode(entry)
        name = (entry.document, entry.epoch)
        return change, self._authority.verdict(meta, DOCUMENTS[name].need, self._documents.scope(name, change))

    def _mark(self, meta: Meta, index: int, body: AuthorityBody) -> Mark:
        """What authority knows of an entry; of a void one that is only the reason."""
        void = self._authority.void_reason(meta.hash, index)
        if void is None:
            return next(item for item in self._authority.by_batch[meta.hash] if item.index == index)
        mark = Mark(meta, index, body)
        mark.standing, mark.reason = Standing.OUT, void
        return mark

    def _put_mark(self, mark: Mark, body: AuthorityBody) -> None:
        meta, reason = mark.meta, mark.reason if mark.standing is Standing.OUT else ""
        match body:
            case GrantEntry():
                self._put_grant(mark, reason)
            case CertifyEntry():
                self._admission.certified(mark, body, reason)
            case RevokeEntry():
                self._admission.revoked(body.target)
                self._state.put(
                    RevocationRow(
                        batch=meta.hash,
                        entry=mark.index,
                        target=body.target,
                        author=meta.author,
                        roles=tuple(role.value for role in body.roles),
                        cut_seq=body.cut_seq,
                        note=body.reason,
                        reason=reason,
                    )
                )
            case ThawEntry():
                self._state.put(
                    ThawRow(
                        batch=meta.hash,
                        entry=mark.index,
                        author=body.author,
                        owner=meta.author,
                        keep=body.keep,
                        note=body.reason,
                        reason=reason,
                    )
                )
            case CheckpointEntry():
                self._state.put(
                    CheckpointRow(
                        batch=meta.hash,
                        entry=mark.index,
                        epoch=body.epoch,
                        owner=meta.author,
                        horizon=body.horizon,
                        count=body.count,
                        digest=body.digest,
                        reason=reason,
                    )
                )

    def _put_grant(self, mark: Mark, reason: str) -> None:
        grant = mark.grant
        if grant is None:
            return  # forged or widened: the entry is listed among those without effect
        self._state.put(
            GrantRow(
                batch=mark.meta.hash,
                entry=mark.index,
                grant_id=mark.grant_id,
                subject=grant.subject,
                issuer=grant.issuer,
                roles=tuple(role.value for role in grant.roles),
                scope=grant.scope,
                delegate=grant.delegate,
                depth=mark.depth,
                not_before_ms=grant.not_before_ms,
                not_after_ms=grant.not_after_ms,
                reason=reason,
            )
        )
