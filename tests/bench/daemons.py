"""Real daemons whose data directories hold a corpus, for the benchmarks of sync and memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.core.ids import MeshId
from appliance.lab.rig import Machine
from appliance.trust.descriptor import seal_descriptor
from appliance.trust.pqc import provider
from tests.bench.corpus import START_MS, Corpus
from tests.bench.engines import feed, open_engine


def prepare(machine: Machine, made: Corpus, seed: bytes) -> Path:
    """Give a machine a node key and the mesh of a corpus; returns the directory of its replica."""
    machine.data_dir.mkdir(mode=0o700)
    key = machine.data_dir / "node.pem"
    key.touch(mode=0o600)
    private = MLDSA65PrivateKey.from_seed_bytes(seed)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    authority = provider("auto").mldsa_keypair(made.authority_seed)
    descriptor = seal_descriptor(authority.public_key, "bench", START_MS, authority.sign)
    (machine.data_dir / "mesh.x0t").write_bytes(descriptor)
    replica = machine.data_dir / str(MeshId(made.mesh))
    replica.mkdir(mode=0o700)
    return replica


def fill(directory: Path, made: Corpus, *, members: bool = True) -> float:
    """Put a corpus in a replica, or only its opening.

    Returns batches a second for those of the members: verified, stored and folded.
    """
    engine = open_engine(made, directory)
    feed(engine, made.opening)
    seconds = feed(engine, made.batches) if members else 1.0
    engine.close()
    return len(made.batches) / seconds


def total(made: Corpus) -> int:
    """Batches of a corpus."""
    return len(made.opening) + len(made.batches)


def settle(machine: Machine) -> None:
    """Wait until a daemon has written what it writes at its first start."""
    machine.wait(lambda seen: seen.batches > 0)
    asyncio.run(asyncio.sleep(2))
