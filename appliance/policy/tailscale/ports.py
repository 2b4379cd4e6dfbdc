"""Protocols and ports as Tailscale writes them, as services of ours.

Without a protocol a rule speaks of TCP and UDP. ICMP needs no rule of its own there: where anything is allowed between
two addresses ICMP is as well, so every rule here carries icmpv6. Only TCP, UDP and SCTP have ports. The mesh carries
IPv6, so both ICMPs are icmpv6. Syntax: the reference of the tailnet policy file, `proto` and `dst`; grants, `ip`.
"""

from __future__ import annotations

from appliance.policy.canonical_rule import canonical_services
from appliance.policy.model import MAX_PORT, NUMBERS, WITH_PORTS, Protocol, Service
from appliance.policy.tailscale.names import meant
from appliance.policy.tailscale.report import NoEqualError

PING = Service(Protocol.ICMPV6)
ANY = "*"

_NAMED = {  # IANA numbers of the names that Tailscale and headscale know
    "icmp": 1,
    "igmp": 2,
    "ipv4": 4,
    "ip-in-ip": 4,
    "tcp": 6,
    "egp": 8,
    "igp": 9,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "sctp": 132,
    "fc": 133,
}
_OURS = {number: protocol for protocol, number in NUMBERS.items()} | {1: Protocol.ICMPV6}
_DEFAULT = (Protocol.TCP, Protocol.UDP)


def protocols(text: str) -> tuple[Protocol, ...]:
    """The protocols that a `proto` means; those of a rule without one for the empty text."""
    if not text:
        return _DEFAULT
    number = _NAMED.get(text.lower())
    if number is None and text.isascii() and text.isdecimal() and not text.startswith("0") and int(text) <= 255:
        number = int(text)
    if number is None:
        raise NoEqualError(text, "is no protocol", meant(text, _NAMED, "Name one, or its IANA number, 1 to 255."))
    if number not in _OURS:
        raise NoEqualError(
            f"protocol {text}" if text.isdecimal() else text,
            f"(IP protocol {number}) cannot be allowed alone: a rule here speaks of tcp, udp, sctp, icmpv6 or any",
            "Take it out, and carry that traffic inside one of these; `any` would allow more than the file does.",
        )
    return (_OURS[number],)


def services(protocol: str, ports: str) -> tuple[Service, ...]:
    """The services of a rule with this `proto` and these ports, in canonical form."""
    named = protocols(protocol)
    if ports != ANY and not WITH_PORTS.issuperset(named):
        raise NoEqualError(ports, f"gives {protocol} a port, which it does not have", 'Write "*" for its ports.')
    ranges = [(0, MAX_PORT)] if ports == ANY else [_range(part) for part in ports.split(",")]
    wanted = [Service(one, first, last) for one in named if one in WITH_PORTS for first, last in ranges]
    return canonical_services([*wanted, PING])


def granted(text: str) -> tuple[Service, ...]:
    """The services of one entry of a grant's `ip`: `*`, `443`, `80-90`, `tcp:443`, `icmp:*`."""
    protocol, colon, ports = text.rpartition(":")
    if colon and not protocol:
        raise NoEqualError(text, "has no protocol before the colon", "Write tcp:443, or the port alone.")
    return services(protocol, ports)


def single_port(text: str) -> int:
    """The one port of a test, 0 to 65535."""
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_PORT:
        raise NoEqualError(text, "is not one port", "A test speaks of one port, 0 to 65535: write one test for each.")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ends = (first, last) if dash else (first, first)
    if not all(end.isascii() and end.isdecimal() and int(end) <= MAX_PORT for end in ends):
        raise NoEqualError(text, "is no port, range of ports or *", "Write 443, 80,443, 1000-2000 or *.")
    low, high = int(ends[0]), int(ends[1])
    if low > high or (not dash and low == 0):
        raise NoEqualError(text, "is no port or range of ports", "Ports are 1 to 65535, the lower end first.")
    return low, high
