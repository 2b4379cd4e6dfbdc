"""A mesh made for measuring: one authority, one founder, many members, and signed one-entry batches of theirs.

Made once for each size and kept under .cache/bench, because signing is slow and is not what is measured. Every key
follows from the size, so two runs measure the same bytes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.core.clock import hlc_pack
from appliance.core.ids import mesh_id, node_id
from appliance.replica.batch import Batch, SignedBatch, build_batch, parse_batch
from appliance.replica.entries import AnnounceEntry, EntryBody, GrantEntry, make
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import Provider, SigningKey, provider

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "bench"
START_MS = 1_780_000_000_000  # a moment in the past of every clock that runs this
YEAR_MS = 365 * 86_400_000
VALID_MS = 30 * YEAR_MS
GRANTS_A_BATCH = 6  # a grant is about 5.4 KiB; a batch holds at most 64 KiB


class Corpus(msgspec.Struct, frozen=True):
    """Signed batches in causal order: first the founder's with the grants, then one-entry batches of the members."""

    mesh: bytes
    authority_key: bytes
    authority_seed: bytes
    founder: bytes
    founder_seed: bytes
    spare_seed: bytes  # of a member that has written nothing
    opening: tuple[bytes, ...]
    batches: tuple[bytes, ...]

    def parsed(self) -> Iterator[SignedBatch]:
        """All batches, decoded."""
        yield from (parse_batch(blob) for blob in (*self.opening, *self.batches))


def corpus(members: int, batches: int) -> Corpus:
    """The corpus of this size, from the cache or made now."""
    path = CACHE / f"corpus-4-{members}-{batches}.bin"
    if not path.exists():
        made = _Maker(members).make(batches)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        draft.write_bytes(msgspec.msgpack.encode(made))
        draft.replace(path)
        return made
    return msgspec.msgpack.decode(path.read_bytes(), type=Corpus)


class _Maker:
    def __init__(self, members: int) -> None:
        self._by: Provider = provider("auto")
        self._label = f"x0t bench {members}".encode()
        self._authority = self._key(b"authority")
        self._founder = self._key(b"founder")
        self._members = [self._key(b"member %d" % number) for number in range(members)]
        self._mesh = mesh_id(self._authority.public_key).raw
        self._heads: dict[bytes, SignedBatch] = {}
        self._hlc = hlc_pack(START_MS, 0)

    def make(self, count: int) -> Corpus:
        root = self._grant(self._authority, self._mesh, self._founder, Role.OWNER, None)
        opening = [self._write(self._founder, [GrantEntry(root)], None)]
        grants = [
            GrantEntry(self._grant(self._founder, _id(self._founder), member, Role.MEMBER, grant_id(root)))
            for member in (*self._members, self._key(b"spare"))
        ]
        groups = [grants[start : start + GRANTS_A_BATCH] for start in range(0, len(grants), GRANTS_A_BATCH)]
        opening += [self._write(self._founder, group, None) for group in groups]
        last = opening[-1]
        batches: list[SignedBatch] = []
        for number in range(count):
            member = self._members[number % len(self._members)]
            said = AnnounceEntry(
                name=f"robot-{number % len(self._members)}", endpoints=("10.0.0.1:7700",), software="1"
            )
            last = self._write(member, [said], last)
            batches.append(last)
        return Corpus(
            mesh=self._mesh,
            authority_key=self._authority.public_key,
            authority_seed=self._seed(b"authority"),
            founder=_id(self._founder),
            founder_seed=self._seed(b"founder"),
            spare_seed=self._seed(b"spare"),
            opening=tuple(signed.blob for signed in opening),
            batches=tuple(signed.blob for signed in batches),
        )

    def _write(
        self,
        key: SigningKey,
        bodies: list[EntryBody] | list[GrantEntry] | list[AnnounceEntry],
        seen: SignedBatch | None,
    ) -> SignedBatch:
        author = _id(key)
        head = self._heads.get(author)
        self._hlc += 1 << 16
        batch = Batch(
            version=1,
            mesh=self._mesh,
            channel="control",
            author=author,
            seq=1 if head is None else head.batch.seq + 1,
            prev=None if head is None else head.hash,
            parents=() if seen is None or seen is head else (seen.hash,),
            hlc=self._hlc,
            entries=tuple(make(body) for body in bodies),
        )
        self._heads[author] = build_batch(batch, key.sign)
        return self._heads[author]

    def _grant(
        self, issuer: SigningKey, issuer_id: bytes, subject: SigningKey, role: Role, parent: bytes | None
    ) -> bytes:
        grant = Grant(
            version=1,
            mesh=self._mesh,
            issuer=issuer_id,
            subject=_id(subject),
            subject_key=subject.public_key,
            roles=(role,),
            scope=(),
            delegate=0 if parent else 3,
            not_before_ms=START_MS - 1000,
            not_after_ms=START_MS + VALID_MS,
            parent=parent,
            nonce=hashlib.sha256(_id(subject)).digest()[:16],
        )
        return sign_grant(grant, issuer.sign)

    def _key(self, name: bytes) -> SigningKey:
        return self._by.mldsa_keypair(self._seed(name))

    def _seed(self, name: bytes) -> bytes:
        return hashlib.sha256(self._label + b"/" + name).digest()


def _id(key: SigningKey) -> bytes:
    return node_id(key.public_key).raw
