"""Where a probe died: what two nodes saw of it, and the table that says what it means.

A firewall drops in silence, so silence alone proves nothing: the sender's own verdict, what the receiver's node says
when it is asked, and what came back are put together. Pure: `probe` sends, the daemon asks the other node.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from appliance.core.prefix import address_text
from appliance.policy.enforcement import Stage
from appliance.policy.filter import Address
from appliance.policy.model import NUMBERS, WITH_PORTS

_UDP: Final = 17


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and how long to wait. The port is 0 for a protocol without ports."""

    source: Address  # this node's, on the mesh
    target: Address
    protocol: int
    port: int = 0
    size_bytes: int = 56  # of payload; tcp sends none
    timeout_s: float = 3.0
    target_name: str = ""  # for people

    @property
    def service(self) -> str:
        """As policies write it: `tcp/502`."""
        for protocol, number in NUMBERS.items():
            if number == self.protocol:
                return f"{protocol}/{self.port}" if protocol in WITH_PORTS else protocol.value
        return f"protocol {self.protocol}"


class Answer(StrEnum):
    """What became of it, as the sender sees it."""

    NO_ROUTE = "no_route"  # this node knows no way to the target
    OTHER_WAY = "other_way"  # it would leave with another source address: not by the mesh
    NOT_SENT = "not_sent"  # this node's kernel refused to send it
    REPLIED = "replied"
    CLOSED = "closed"  # the target says that nobody listens: RST, ABORT, port unreachable, unknown protocol
    PROHIBITED = "prohibited"  # a firewall says so, with ICMPv6
    UNREACHABLE = "unreachable"  # a router, or the target's gateway, says so
    TOO_BIG = "too_big"
    SILENCE = "silence"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender saw."""

    answer: Answer
    round_trip_ms: float | None = None
    by: Address | None = None  # who sent the error; or the source address of another way


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver's node says: the gateway, for a host behind one."""

    allowed: bool  # by the filter that it enforces now
    dropped: Stage | None = None  # its sample of drops shows this flow
    listening: bool | None = None  # a socket of its own waits for it; None: not known, as for a host behind it


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one probe."""

    order: Order
    seen: Seen
    allowed: bool  # by the filter that this node enforces
    dropped: Stage | None = None  # this node's sample of drops shows it
    receiver: Receiver | None = None  # None: its node did not answer


class DiedAt(StrEnum):
    """The place where a probe ended."""

    NO_ROUTE = "no-route"
    SENDER_RULE = "sender-rule"
    RECEIVER_RULE = "receiver-rule"
    NO_LISTENER = "no-listener"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The conclusion, for programs and for people."""

    died_at: DiedAt | None  # None: it arrived
    round_trip_ms: float | None
    sentence: str
    hint: str

    @property
    def reached(self) -> bool:
        """True if it arrived at somebody who listens."""
        return self.died_at is None


class Case(NamedTuple):
    """A row of the table. Placeholders: service, target, by, stage, ms."""

    when: Callable[[Observation], bool]
    died_at: DiedAt | None
    sentence: str
    hint: str = ""


def _answers(*answers: Answer) -> Callable[[Observation], bool]:
    return lambda observed: observed.seen.answer in answers


def _receiver(test: Callable[[Receiver], bool]) -> Callable[[Observation], bool]:
    return lambda observed: observed.receiver is not None and test(observed.receiver)


_DOCTOR: Final = "Run `x0t net doctor` on both nodes."
_EXPLAIN: Final = "`x0t policy explain` names the rules; `x0t net drops` there shows what else is dropped."

# The first row that fits is the finding. What came back proves more than what anybody believes, so it comes first.
CASES: Final = (
    Case(
        lambda observed: observed.seen.answer in {Answer.REPLIED, Answer.CLOSED} and not observed.allowed,
        DiedAt.UNKNOWN,
        "{service} reached {target} although no rule allows it.",
        "This node does not enforce its policy: run `x0t net doctor` at once.",
    ),
    Case(_answers(Answer.REPLIED), None, "{service} reached {target}; the answer took {ms} ms."),
    Case(
        _answers(Answer.CLOSED),
        DiedAt.NO_LISTENER,
        "{service} reached {target}, where nobody listens.",
        "Both firewalls let it pass. Start the service there, or check its address and port.",
    ),
    Case(
        _answers(Answer.NO_ROUTE),
        DiedAt.NO_ROUTE,
        "This node knows no way to {target}.",
        "`x0t net routes` shows where members and their subnets are.",
    ),
    Case(
        _answers(Answer.OTHER_WAY),
        DiedAt.NO_ROUTE,
        "Packets to {target} do not leave by the mesh: their source would be {by}.",
        "Another program set a route that is more exact: see `ip -6 route get`.",
    ),
    Case(
        lambda observed: observed.seen.answer is Answer.NOT_SENT and observed.allowed,
        DiedAt.SENDER_RULE,
        "This node's kernel refused to send {service} to {target}, though a rule allows it.",
        "Another table than ours may drop it (`nft list ruleset`), or ours is damaged: run `x0t net doctor`.",
    ),
    Case(
        lambda observed: not observed.allowed,
        DiedAt.SENDER_RULE,
        "No rule lets this node open {service} to {target}.",
        "`x0t policy explain` says which rules come near.",
    ),
    Case(
        lambda observed: observed.dropped is not None,
        DiedAt.SENDER_RULE,
        "This node dropped {service} to {target}, by its check `{stage}`.",
        _EXPLAIN,
    ),
    Case(
        _answers(Answer.PROHIBITED),
        DiedAt.RECEIVER_RULE,
        "A firewall forbids {service} to {target}, says {by}.",
        "It is not ours, which is silent: ask who runs it.",
    ),
    Case(
        _answers(Answer.UNREACHABLE),
        DiedAt.NO_LISTENER,
        "Nobody can reach {target}, says {by}.",
        "The host is off, or its gateway does not see it on its network.",
    ),
    Case(
        _answers(Answer.TOO_BIG),
        DiedAt.UNKNOWN,
        "{service} of this size does not fit on the way to {target}.",
        "Probe again with a smaller `--size`.",
    ),
    Case(
        lambda observed: observed.receiver is None,
        DiedAt.UNKNOWN,
        "{service} to {target} was sent and not answered, and the node there cannot be asked.",
        "It is off or cut off: `x0t net peers` and `x0t net routes` show whether there is a way.",
    ),
    Case(
        _receiver(lambda receiver: receiver.dropped not in {None, Stage.INBOUND}),
        DiedAt.RECEIVER_RULE,
        "The node of {target} dropped {service}, by its check `{stage}`.",
        _EXPLAIN,
    ),
    Case(
        _receiver(lambda receiver: not receiver.allowed),
        DiedAt.RECEIVER_RULE,
        "The node of {target} knows no rule that lets {service} in: its policy is another one.",
        "Compare the revision in force on both nodes with `x0t policy show`.",
    ),
    Case(
        _receiver(lambda receiver: receiver.dropped is not None),
        DiedAt.RECEIVER_RULE,
        "The node of {target} dropped {service}, though its policy allows it.",
        _DOCTOR,
    ),
    Case(
        _receiver(lambda receiver: receiver.listening is False),
        DiedAt.NO_LISTENER,
        "Nobody listens for {service} at {target}.",
        "Start the service there, or check its address and port.",
    ),
    Case(
        lambda observed: (
            observed.order.protocol == _UDP and observed.receiver is not None and observed.receiver.listening is True
        ),
        None,
        "{service} may reach {target}, where somebody listens who did not answer, as udp need not.",
    ),
    Case(
        lambda _: True,
        DiedAt.UNKNOWN,
        "Both firewalls allow {service} to {target}, and nothing came back.",
        "It was lost on the way, or another firewall at the target is silent: capture on both nodes.",
    ),
)


def conclude(observed: Observation) -> Finding:
    """What an observation means: the first row of the table that fits."""
    case = next(case for case in CASES if case.when(observed))
    order, seen, receiver = observed.order, observed.seen, observed.receiver
    address = address_text(order.target)
    stage = observed.dropped or (receiver.dropped if receiver is not None else None)
    sentence = case.sentence.format(
        service=order.service,
        target=f"{order.target_name} ({address})" if order.target_name else address,
        by="the kernel of this node" if seen.by is None else address_text(seen.by),
        stage="" if stage is None else stage.value,
        ms="?" if seen.round_trip_ms is None else f"{seen.round_trip_ms:.2f}",
    )
    return Finding(died_at=case.died_at, round_trip_ms=seen.round_trip_ms, sentence=sentence, hint=case.hint)
