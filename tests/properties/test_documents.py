"""Laws of documents: what several actors write apart is the same everywhere, whatever the order of arrival.

Two things judge it that share no code with the index: Automerge, whose own transactions must give the bytes that `edit`
gives, and an oracle of ten lines over the decoded operations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from automerge import core
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.limits import LIMITS, Limits
from appliance.replica.change_codec import Change, Op, Scalar, decode_change
from appliance.replica.doc_index import DocIndex
from appliance.replica.document import Document

ACTORS = [bytes([number]) * 32 for number in (7, 1, 4)]  # their order is not that of the replicas
KEYS = ["a", "b", "c"]
NARROW = Limits(change_deps=2, change_preds=2)


class Step(NamedTuple):
    """A replica first takes what another has, or nothing (its own number), and then edits."""

    replica: int
    source: int
    puts: frozenset[str]
    deletes: frozenset[str]


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, 2),
        st.integers(0, 2),
        st.frozensets(st.sampled_from(KEYS), min_size=1, max_size=2),
        st.frozensets(st.sampled_from(KEYS), max_size=1),
    ),
    min_size=1,
    max_size=14,
)


class Replica:
    """A document of ours and one of Automerge that write the same."""

    def __init__(self, actor: bytes, limits: Limits) -> None:
        self.actor = actor
        self.document = Document(limits=limits)
        self.theirs = core.Document(actor)
        self.chunks: list[bytes] = []

    def take(self, chunks: Sequence[bytes]) -> None:
        """Apply what is missing, in an order that is causal."""
        for chunk in chunks:
            if chunk not in self.chunks:
                self.document.apply(chunk, decode_change(chunk).actor)
                self.chunks.append(chunk)

    def edit(self, number: int, step: Step) -> bytes:
        """One change, made twice; each value is new, as Automerge leaves out a put that changes nothing."""
        puts: dict[str, Scalar] = {key: f"{number}/{key}" for key in sorted(step.puts - step.deletes)}
        deletes = [key for key in sorted(step.deletes) if key in self.document]
        if not puts and not deletes:
            puts = {"z": number}
        chunk = self.document.edit(puts, deletes, self.actor, 0)
        with self.theirs.transaction() as edit:
            for key in sorted({*puts, *deletes}):
                if key in deletes:
                    edit.delete(core.ROOT, key)
                else:
                    kind = core.ScalarType.Int if key == "z" else core.ScalarType.Str
                    edit.put(core.ROOT, key, kind, puts[key])
        return chunk


def write(script: list[Step], limits: Limits = LIMITS) -> list[bytes]:
    """The chunks of a history, in one causal order; with the usual limits each is compared with Automerge's."""
    replicas = [Replica(actor, limits) for actor in ACTORS]
    history: list[bytes] = []
    for number, step in enumerate(script):
        replica, source = replicas[step.replica], replicas[step.source]
        if source is not replica:
            replica.take(source.chunks)
            replica.theirs.merge(source.theirs)
        chunk = replica.edit(number, step)
        if limits is LIMITS:
            assert bytes(replica.theirs.get_changes([])[-1].raw_bytes) == chunk
        replica.take([chunk])
        history.append(chunk)
    return history


def oracle(changes: Sequence[Change]) -> dict[str, list[tuple[int, bytes, Scalar]]]:
    """Per key what shows, winner first: the sets that no operation replaced."""
    replaced = {pred for change in changes for op in change.ops for pred in op.preds}
    shown: dict[str, list[tuple[int, bytes, Scalar]]] = {}
    for change in changes:
        for place, op in enumerate(change.ops):
            if not op.delete and (change.start_op + place, change.actor) not in replaced:
                shown.setdefault(op.key, []).append((change.start_op + place, change.actor, op.value))
    return {key: sorted(found, reverse=True) for key, found in shown.items()}


def shuffled(chunks: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Another causal order."""
    waiting = [(decode_change(chunk), chunk) for chunk in chunks]
    done: set[bytes] = set()
    order: list[bytes] = []
    while waiting:
        ready = [pair for pair in waiting if done.issuperset(pair[0].deps)]
        pair = rng.choice(ready)
        waiting.remove(pair)
        done.add(pair[0].hash)
        order.append(pair[1])
    return order


def arrive(chunks: Sequence[bytes], limits: Limits = LIMITS) -> Document:
    """A document that took the chunks one by one."""
    document = Document(limits=limits)
    for chunk in chunks:
        document.apply(chunk, decode_change(chunk).actor)
    return document


def view(document: Document) -> tuple[object, ...]:
    """All that a reader can see."""
    keys = [*KEYS, "z"]
    conflicts = [document.conflicts(key) for key in keys]
    values = [(key in document, document.get(key)) for key in keys]
    return document.items(), conflicts, values, document.heads(), document.index.conflicts(), len(document)


@given(steps, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_document(script: list[Step], rng: random.Random) -> None:
    chunks = write(script)
    first = arrive(chunks)
    for _ in range(3):
        assert view(arrive(shuffled(chunks, rng))) == view(first)


@given(steps, st.randoms(use_true_random=False))
def test_building_at_once_gives_what_arriving_one_by_one_gives(script: list[Step], rng: random.Random) -> None:
    chunks = write(script)
    document = arrive(chunks)
    rng.shuffle(chunks)
    built = Document.build(chunks)
    assert view(built) == view(document)
    assert view(Document.load(built.dump())) == view(document)


@given(steps)
def test_automerge_and_the_oracle_agree_on_winners_and_conflicts(script: list[Step]) -> None:
    chunks = write(script)
    document = arrive(chunks)
    shown = oracle([decode_change(chunk) for chunk in chunks])
    assert document.items() == sorted((key, found[0][2]) for key, found in shown.items())
    for key, found in shown.items():
        assert [(c.counter, c.actor, c.value) for c in document.conflicts(key)] == found
        by_change = {c.change: c.value for c in document.conflicts(key)}
        for chunk in chunks:
            change = decode_change(chunk)
            if change.hash in by_change:
                assert by_change[change.hash] in [op.value for op in change.ops if op.key == key]


@given(steps, st.randoms(use_true_random=False))
def test_the_laws_hold_when_changes_may_not_follow_all_heads(script: list[Step], rng: random.Random) -> None:
    chunks = write(script, NARROW)
    first = arrive(chunks, NARROW)
    assert view(arrive(shuffled(chunks, rng), NARROW)) == view(first)
    shown = oracle([decode_change(chunk) for chunk in chunks])
    assert first.items() == sorted((key, found[0][2]) for key, found in shown.items())


@given(steps, st.data())
def test_undo_is_as_if_the_last_changes_had_never_come(script: list[Step], data: st.DataObject) -> None:
    chunks = write(script)
    document = arrive(chunks)
    kept = data.draw(st.integers(0, len(chunks)))
    for _ in chunks[kept:]:
        document.undo()
    again = data.draw(st.booleans())
    if again:
        for chunk in chunks[kept:]:
            document.apply(chunk, decode_change(chunk).actor)
    assert view(document) == view(arrive(chunks if again else chunks[:kept]))


@given(steps, st.data())
def test_a_change_fits_only_with_exactly_what_its_past_shows(script: list[Step], data: st.DataObject) -> None:
    changes = [decode_change(chunk) for chunk in write(script)]
    index = DocIndex()
    for change in changes[:-1]:
        index.admit(change, change.actor)
        index.add(change)
    last = changes[-1]
    ids = [(c.start_op + place, c.actor) for c in changes[:-1] for place in range(len(c.ops))]
    preds = tuple(sorted(data.draw(st.sets(st.sampled_from(ids), max_size=3) if ids else st.just(set()))))
    forged = msgspec.structs.replace(last, ops=(Op(last.ops[0].key, "forged", preds), *last.ops[1:]))
    try:
        index.admit(forged, last.actor)
        fits = True
    except Exception:  # noqa: BLE001 - any refusal is one
        fits = False
    assert fits == (preds == last.ops[0].preds)
