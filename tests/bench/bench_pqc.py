"""`./test bench pqc`: what our seam costs over the provider called raw, and what the two providers reach.

Raw is the C function of liboqs through ctypes with buffers made beforehand, and the method of `cryptography`. Seam and
raw run in turns, so that other work on the machine meets both.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_size_t, create_string_buffer
from time import thread_time

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from appliance.core.domains import Domain
from appliance.trust.liboqs_loader import find_prefix, load_library
from appliance.trust.pqc import Provider, provider
from appliance.trust.pqc_liboqs import LiboqsProvider
from tests.bench.rows import Row, compared

SEED = bytes(range(32))
MESSAGE = bytes(400)  # about a one-entry batch
CONTEXT = Domain.BATCH.encode()
ROUNDS = 21
ROUND_S = 0.12  # of one side of one round
REACH = 0.9  # issue: sign and verify through our seam within 10 % of the provider called raw

Call = Callable[[], object]


def run() -> list[Row]:
    """The rows: seam against raw for both providers, then the providers against each other."""
    fast, steady = provider("liboqs"), provider("openssl")
    rows = _openssl(steady)
    if isinstance(fast, LiboqsProvider):
        rows = _liboqs(fast) + rows
    return rows + _kem(fast, steady)


def _liboqs(fast: LiboqsProvider) -> list[Row]:
    library = load_library(find_prefix())
    key = fast.mldsa_keypair(SEED)
    public, signature = key.public_key, key.sign(MESSAGE, CONTEXT)
    secret, out, length = key.secret.buffer, create_string_buffer(len(signature)), c_size_t(len(signature))
    sizes = len(MESSAGE), len(CONTEXT), len(signature)
    return [
        _against_raw(
            "liboqs sign",
            lambda: key.sign(MESSAGE, CONTEXT),
            lambda: library.sign(out, byref(length), MESSAGE, sizes[0], CONTEXT, sizes[1], secret),
        ),
        _against_raw(
            "liboqs verify",
            lambda: fast.mldsa_verify(public, MESSAGE, signature, CONTEXT),
            lambda: library.verify(MESSAGE, sizes[0], signature, sizes[2], CONTEXT, sizes[1], public),
        ),
    ]


def _openssl(steady: Provider) -> list[Row]:
    key, raw = steady.mldsa_keypair(SEED), MLDSA65PrivateKey.from_seed_bytes(SEED)
    public, signature = key.public_key, key.sign(MESSAGE, CONTEXT)
    return [
        _against_raw("openssl sign", lambda: key.sign(MESSAGE, CONTEXT), lambda: raw.sign(MESSAGE, CONTEXT)),
        _against_raw(
            "openssl verify",
            lambda: steady.mldsa_verify(public, MESSAGE, signature, CONTEXT),
            lambda: MLDSA65PublicKey.from_public_bytes(public).verify(signature, MESSAGE, CONTEXT),
        ),
    ]


def _kem(fast: Provider, steady: Provider) -> list[Row]:
    keys = [each.mlkem_keypair(bytes(64)) for each in (fast, steady)]
    public = keys[0].public_key
    _, ciphertext = fast.mlkem_encapsulate(public)
    pairs: list[tuple[str, Call, Call]] = [
        ("derive a signing key", lambda: fast.mldsa_keypair(SEED), lambda: steady.mldsa_keypair(SEED)),
        ("encapsulate", lambda: fast.mlkem_encapsulate(public), lambda: steady.mlkem_encapsulate(public)),
        ("decapsulate", lambda: keys[0].decapsulate(ciphertext), lambda: keys[1].decapsulate(ciphertext)),
    ]
    rows: list[Row] = []
    for name, ours, other in pairs:
        value, peer = _in_turns(ours, other)
        rows.append(Row(name=f"liboqs {name} (peer: openssl)", unit="1/s", value=value, peer=peer, ratio=value / peer))
    return rows


def _against_raw(name: str, seam: Call, raw: Call) -> Row:
    value, peer = _in_turns(seam, raw)
    return compared(f"{name} through the seam (peer: raw)", "1/s", value, peer, at_least=REACH)


def _in_turns(first: Call, second: Call) -> tuple[float, float]:
    """Calls a second of both, over all rounds: signing retries at random, so single rounds differ by their luck."""
    counts = [max(int(ROUND_S / _seconds(call, 20) * 20), 20) for call in (first, second)]
    rounds = [(_seconds(first, counts[0]), _seconds(second, counts[1])) for _ in range(ROUNDS)]
    times = [sum(column) for column in zip(*rounds, strict=True)]
    return ROUNDS * counts[0] / times[0], ROUNDS * counts[1] / times[1]


def _seconds(call: Call, count: int) -> float:
    """Processor time of this thread, which other work on the machine does not lengthen."""
    begun = thread_time()
    for _ in range(count):
        call()
    return thread_time() - begun
