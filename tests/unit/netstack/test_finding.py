from __future__ import annotations

import pytest

from appliance.core.prefix import parse_address
from appliance.netstack.finding import (
    CASES,
    Answer,
    DiedAt,
    Observation,
    Order,
    Receiver,
    Seen,
    conclude,
)
from appliance.policy.enforcement import Stage

ROUTER = parse_address("fd00::1")
TCP = Order(source=parse_address("200::1"), target=parse_address("200::2"), protocol=6, port=502, target_name="plc-1")
UDP = Order(source=parse_address("200::1"), target=parse_address("200::2"), protocol=17, port=53)


def here(answer: Answer, *, allowed: bool = True, order: Order = TCP, by: bytes | None = ROUTER) -> Observation:
    """What the sender alone can tell."""
    return Observation(order=order, seen=Seen(answer=answer, by=by, round_trip_ms=1.234), allowed=allowed)


def there(receiver: Receiver | None, order: Order = TCP) -> Observation:
    """Silence, and what the receiver's node says."""
    return Observation(order=order, seen=Seen(answer=Answer.SILENCE), allowed=True, receiver=receiver)


DROPPED_HERE = Observation(order=TCP, seen=Seen(answer=Answer.SILENCE), allowed=True, dropped=Stage.SOURCE)

# what was observed, where it died, and what the sentence says
ROWS = [
    (here(Answer.REPLIED), None, "tcp/502 reached plc-1 (200::2); the answer took 1.23 ms."),
    (here(Answer.REPLIED, allowed=False), DiedAt.UNKNOWN, "although no rule allows it"),
    (here(Answer.CLOSED, allowed=False), DiedAt.UNKNOWN, "although no rule allows it"),
    (here(Answer.CLOSED), DiedAt.NO_LISTENER, "where nobody listens"),
    (here(Answer.NO_ROUTE), DiedAt.NO_ROUTE, "knows no way"),
    (here(Answer.NO_ROUTE, allowed=False), DiedAt.NO_ROUTE, "knows no way"),
    (here(Answer.OTHER_WAY), DiedAt.NO_ROUTE, "their source would be fd00::1"),
    (here(Answer.NOT_SENT), DiedAt.SENDER_RULE, "though a rule allows it"),
    (here(Answer.NOT_SENT, allowed=False), DiedAt.SENDER_RULE, "No rule lets this node"),
    (here(Answer.SILENCE, allowed=False), DiedAt.SENDER_RULE, "No rule lets this node"),
    (DROPPED_HERE, DiedAt.SENDER_RULE, "its check `source`"),
    (here(Answer.PROHIBITED), DiedAt.RECEIVER_RULE, "A firewall forbids tcp/502 to plc-1 (200::2), says fd00::1."),
    (here(Answer.UNREACHABLE), DiedAt.NO_LISTENER, "Nobody can reach plc-1 (200::2), says fd00::1."),
    (here(Answer.UNREACHABLE, by=None), DiedAt.NO_LISTENER, "says the kernel of this node"),
    (here(Answer.TOO_BIG, order=UDP), DiedAt.UNKNOWN, "does not fit"),
    (there(None), DiedAt.UNKNOWN, "the node there cannot be asked"),
    (there(Receiver(allowed=True, dropped=Stage.HEADER)), DiedAt.RECEIVER_RULE, "its check `header`"),
    (there(Receiver(allowed=False, dropped=Stage.INBOUND)), DiedAt.RECEIVER_RULE, "its policy is another one"),
    (there(Receiver(allowed=False)), DiedAt.RECEIVER_RULE, "its policy is another one"),
    (there(Receiver(allowed=True, dropped=Stage.INBOUND)), DiedAt.RECEIVER_RULE, "though its policy allows it"),
    (there(Receiver(allowed=True, listening=False)), DiedAt.NO_LISTENER, "Nobody listens for tcp/502"),
    (there(Receiver(allowed=True, listening=True), UDP), None, "somebody listens who did not answer"),
    (there(Receiver(allowed=True, listening=True)), DiedAt.UNKNOWN, "nothing came back"),
    (there(Receiver(allowed=True), UDP), DiedAt.UNKNOWN, "nothing came back"),
]


@pytest.mark.parametrize("observed, died_at, sentence", ROWS)
def test_what_two_nodes_saw_has_one_meaning(observed: Observation, died_at: DiedAt | None, sentence: str) -> None:
    finding = conclude(observed)
    assert finding.died_at is died_at
    assert finding.reached == (died_at is None)
    assert sentence in finding.sentence
    assert finding.round_trip_ms == observed.seen.round_trip_ms
    assert finding.reached or finding.hint, "what died has something to do next"


def test_every_row_of_the_table_is_somebodys_finding() -> None:
    reached = [next(case for case in CASES if case.when(observed)) for observed, _, _ in ROWS]
    assert [case.sentence for case in CASES if case not in reached] == []


@pytest.mark.parametrize(
    "protocol, port, service", [(6, 502, "tcp/502"), (132, 1, "sctp/1"), (58, 0, "icmpv6"), (47, 0, "protocol 47")]
)
def test_an_order_names_its_service_as_policies_do(protocol: int, port: int, service: str) -> None:
    assert Order(source=bytes(16), target=bytes(16), protocol=protocol, port=port).service == service
