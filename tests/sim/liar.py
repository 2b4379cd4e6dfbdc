"""A peer that is a script of frames against an honest session with a model replica."""

from __future__ import annotations

from hashlib import sha256

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from appliance.replica.vector import Vector
from tests.sim.model_link import Side
from tests.sim.model_replica import CHANNEL, MESH, ModelBatch, ModelReplica, author_id

STALL_MS = LIMITS.sync_stall_s * 1000
LARGEST = bytes(LIMITS.batch_bytes - 200)


def honest() -> ModelReplica:
    made = ModelReplica()
    for number in range(20):
        made.write(author_id(number), join=False)
    return made


class Liar:
    """Says what it is told to; `vector` is what it claims to have."""

    def __init__(self, replica: ModelReplica | None = None, limits: Limits = LIMITS) -> None:
        self.side = Side(replica or honest(), limits)
        self.vector = Vector()
        for entry in range(256):
            for author, heads in self.side.replica.vector.bucket(entry):
                for seq, digest in heads:
                    self.vector.add(author, seq, digest, None)

    def say(self, *said: frames.Frame) -> None:
        for frame in said:
            self.say_bytes(frames.encode(frame))

    def say_bytes(self, data: bytes) -> None:
        self.side.hear(data)
        while self.side.work():
            pass

    def hello(self) -> None:
        self.say(frames.Hello(frames.PROTOCOL, MESH, CHANNEL, self.vector.digest(), LIMITS.sync_window_bytes))

    def compare(self) -> None:
        """Hello, and all of a comparison up to the entries."""
        self.hello()
        self.say(frames.Buckets(self.vector.bucket_digests()))
        ours, theirs = self.side.replica.vector, self.vector
        differ = [index for index in range(256) if ours.bucket_digest(index) != theirs.bucket_digest(index)]
        for data in frames.encode_entries(entry for index in differ for entry in theirs.pack(index)):
            self.say_bytes(data)

    def heard(self) -> list[frames.Frame]:
        data = bytes(self.side.outbox)
        self.side.outbox.clear()
        return list(frames.FrameReader().feed(data))

    @property
    def key(self) -> str | None:
        return self.side.drop.key if self.side.drop else None


def fake(name: str = "fake") -> bytes:
    return sha256(name.encode()).digest()


def orphan(filling: bytes = b"") -> ModelBatch:
    return ModelBatch(author_id(3), 9, fake("prev"), (), 99, filling)
