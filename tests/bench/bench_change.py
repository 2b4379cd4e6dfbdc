"""A signed policy change until the kernel of the same node enforces it: from the request to nf_tables' own event.

Two real daemons on two hosts; each change moves an open port. The time holds everything: HTTP, parsing, the policy's
tests, signing, the durable log, the fold, compiling, one netlink transaction. The event is read in the node's
namespace. The peer is what the same daemon needs to sign, log and fold a change of a name, which changes no filter.
"""

from __future__ import annotations

import socket
import statistics
import struct
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.core.network_records import PolicyAsk, PolicyDone
from appliance.core.records import NameAsk, Receipt
from appliance.lab.network_rig import Plant, plant
from tests.bench.rows import Row, bounded

ROUNDS = 300
PAUSE_S = 0.1  # one change at a time: what the last one ended has been looked for
EVENT_S = 5.0
_NETLINK_NETFILTER, _GROUP_NFTABLES, _ADD_MEMBERSHIP, _SOL_NETLINK = 12, 7, 1, 270
_NEW_GENERATION = (10 << 8) | 15  # NFT_MSG_NEWGEN: the transaction is in force
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_POLICY = """version: 1
rules:
  - {{allow: tcp/{port}, from: tag:robot, to: tag:gateway}}
tests:
  - {{from: tag:robot, to: tag:gateway, allow: tcp/{port}}}
"""


def run() -> list[Row]:
    """p50, p99 and the peer."""
    with tempfile.TemporaryDirectory() as directory, plant(Path(directory), ("gateway", "robot")) as made:
        made.ready()
        for name in ("gateway", "robot"):
            made["gateway"].x0t("tag", "set", made[name].key().node, name)
        spent = _changes(made)
        plain = _names(made)
    p99 = statistics.quantiles(spent, n=100)[98]
    return [
        bounded("signed policy change -> kernel, same node, p99", "ms", p99, at_most=50),
        Row(
            name="the same, median, beside a signed change that no filter sees",
            unit="ms",
            value=statistics.median(spent),
            peer=statistics.median(plain),
            ratio=statistics.median(spent) / statistics.median(plain),
        ),
    ]


def _changes(made: Plant) -> list[float]:
    """Milliseconds of each change; the request runs aside, because the kernel may be done before it is answered."""
    client, spent = made["gateway"].client, []
    with (
        made.hosts["gateway"].socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as events,
        ThreadPoolExecutor(1) as aside,
    ):
        events.bind((0, 0))
        events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        events.settimeout(EVENT_S)
        for number in range(ROUNDS):
            time.sleep(PAUSE_S)
            ask = PolicyAsk(text=_POLICY.format(port=2000 + number), confirm_s=0)
            begun_s = time.perf_counter()
            answer = aside.submit(client.send, "POST", "/policy", ask, PolicyDone)
            if answer.done():
                answer.result()
            _await_transaction(events)
            spent.append((time.perf_counter() - begun_s) * 1000)
            answer.result()
    return spent


def _await_transaction(events: socket.socket) -> None:
    """Read events until one says that a transaction is in force."""
    while True:
        data = events.recv(1 << 20)
        while len(data) >= _HEADER.size:
            size, kind, *_ = _HEADER.unpack_from(data)
            if kind == _NEW_GENERATION:
                return
            data = data[(size + 3) & ~3 :]


def _names(made: Plant) -> list[float]:
    """Milliseconds of signed changes of a name."""
    client, spent = made["gateway"].client, []
    path = f"/nodes/{made['robot'].key().node}/name"
    for number in range(ROUNDS // 3):
        begun_s = time.perf_counter()
        client.send("PUT", path, NameAsk(name=f"robot {number}"), Receipt)
        spent.append((time.perf_counter() - begun_s) * 1000)
    return spent
