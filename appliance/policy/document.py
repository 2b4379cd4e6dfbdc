"""A policy as the keys of a replicated document, and the other way round.

    rule/<32 hex>    canonical bytes of the rule, which its name is made of
    test/<32 hex>    canonical bytes of the test
    group/<name>     CBOR array of tags, sorted
    service/<name>   CBOR array of services, such as "tcp/443", sorted
    part/<16 hex>    true while an edit that needs several changes is under way

Each record is a key of its own, so edits on two islands merge as sets do. Reading is strict: there is one form, and a
document that holds another one is refused as a whole, because a policy without one of its rules is another policy.
Nothing here decides which revision is in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from appliance.core import canonical
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.policy import bounds
from appliance.policy.canonical_rule import checked
from appliance.policy.document_check import expectation_fault, group_fault, named_fault, rule_fault
from appliance.policy.model import Policy, PolicyTest, Rule, Service, content_id, encode_rule, encode_test
from appliance.policy.names import parse_service
from appliance.replica.change_codec import Scalar

MARKER_BYTES = 8
PART_BYTES = 28_000  # keys and values of one change; its chunk has 32,768 bytes, and dependencies take some
PART_KEYS = 1_500

_KEY_BYTES = 16  # what a key costs in a change besides itself and its value, at most
_PART = "part/"

Record: TypeAlias = "Rule | PolicyTest | tuple[str, ...] | tuple[Service, ...]"
Convertible = TypeVar("Convertible")


class Part(msgspec.Struct, frozen=True):
    """What one change writes of an edit."""

    puts: dict[str, Scalar]
    deletes: tuple[str, ...] = ()


# --- reading ---------------------------------------------------------------------------------------------


def is_open(mapping: Mapping[str, Scalar]) -> bool:
    """True while an edit of several changes has not all of them."""
    return any(key.startswith(_PART) for key in mapping)


def from_keys(mapping: Mapping[str, Scalar], limits: Limits = LIMITS) -> Policy:
    """The policy that a document holds; `part/` keys say nothing about it.

    Raises `policy.document` for the first key that cannot be read, and `policy.bounds`.
    """
    return Reader(limits).read(mapping)


class Reader:
    """Reads many states of one document; what it has read once costs a look-up. Not thread-safe."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._known: dict[tuple[str, bytes], Record] = {}

    def read(self, mapping: Mapping[str, Scalar]) -> Policy:
        """As `from_keys`."""
        policy = Policy(rules={}, tests={}, groups={}, services={})
        bounds.check_size(_size(mapping), self._limits)  # first: it bounds what reading costs
        for key, value in sorted(mapping.items()):
            kind, _, name = key.partition("/")
            if kind != "part":
                _put(policy, kind, name, self._record(key, value))
        bounds.check(policy, self._limits)
        return policy

    def _record(self, key: str, value: Scalar) -> Record:
        if not isinstance(value, bytes):
            raise error("policy.document", key=key, reason="it is not bytes")
        record = self._known.get((key, value))
        if record is None:
            record = self._known[key, value] = _decoded(key, value, self._limits)
        return record


def _put(policy: Policy, kind: str, name: str, record: Record) -> None:
    if isinstance(record, Rule):
        policy.rules[bytes.fromhex(name)] = record
    elif isinstance(record, PolicyTest):
        policy.tests[bytes.fromhex(name)] = record
    elif kind == "group":
        policy.groups[name] = record  # type: ignore[assignment]  # the kind tells which tuple it is
    else:
        policy.services[name] = record  # type: ignore[assignment]


def _decoded(key: str, value: bytes, limits: Limits) -> Record:
    kind, _, name = key.partition("/")
    try:
        record, entry = _read(kind, name, value, limits)
    except msgspec.ValidationError as err:
        raise error("policy.document", key=key, reason=str(err)) from err
    except X0tError as err:
        reason = err.detail["reason"] if err.key == "policy.document" else err.message.removesuffix(".")
        raise error("policy.document", key=key, reason=reason) from err
    if entry != (key, value):
        reason = "it is not named by its content" if entry[1] == value else "it is not in canonical form"
        raise error("policy.document", key=key, reason=reason)
    return record


def _read(kind: str, name: str, value: bytes, limits: Limits) -> tuple[Record, tuple[str, bytes]]:
    """The record, and the key and value that it has when it is written."""
    match kind:
        case "rule":
            rule = _convert(value, Rule)
            return rule, _rule_entry(rule, limits)
        case "test":
            test = _convert(value, PolicyTest)
            return test, _test_entry(test, limits)
        case "group":
            tags = _convert(value, tuple[str, ...])
            return tags, _group_entry(name, tags, limits)
        case "service":
            services = tuple(_service(text) for text in _convert(value, tuple[str, ...]))
            return services, _service_entry(name, services, limits)
        case _:
            raise error("policy.document", key=name, reason="nothing has such a name")


def _convert(value: bytes, record: type[Convertible]) -> Convertible:
    return msgspec.convert(canonical.decode(value), record, strict=True, builtin_types=(bytes,))


def _service(text: str) -> Service:
    service = parse_service(text)
    if service is None:
        raise msgspec.ValidationError(f"{text} is no service")
    return service


# --- writing ---------------------------------------------------------------------------------------------


def to_keys(policy: Policy, limits: Limits = LIMITS) -> dict[str, bytes]:
    """The keys of a document that holds the policy. Raises what reading them back would: see `from_keys`."""
    bounds.check(policy, limits)
    keys = dict(_entries(policy, limits))
    bounds.check_size(_size(keys), limits)
    return keys


def edit(
    old: Mapping[str, Scalar], policy: Policy, limits: Limits = LIMITS
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """What to put and what to delete so that a document with the content *old* holds the policy and is not open.

    Both are empty where it already does. Raises as `to_keys`.
    """
    wanted = to_keys(policy, limits)
    puts = {key: value for key, value in wanted.items() if old.get(key) != value}
    return puts, tuple(sorted(old.keys() - wanted.keys()))


def parts(puts: Mapping[str, bytes], deletes: Sequence[str], marker: bytes) -> tuple[Part, ...]:
    """An edit in changes that are small enough, to be written in this order; none where nothing changes.

    Of several the first puts `part/<marker>` and the last deletes it, so that none but the last comes into force;
    `part/` keys that an edit left behind which was never completed go last. The marker is 8 random bytes.
    """
    if len(marker) != MARKER_BYTES:
        raise ValueError(f"a marker has {MARKER_BYTES} bytes")
    stale_last = sorted(deletes, key=lambda key: (key.startswith(_PART), key))
    key = f"{_PART}{marker.hex()}"
    found = list(_packed([*puts.items(), *((key, None) for key in stale_last)], spare=2 * _cost(key, None)))
    if len(found) > 1:
        found[0] = Part({**found[0].puts, key: True}, found[0].deletes)
        found[-1] = Part(found[-1].puts, tuple(sorted((*found[-1].deletes, key))))
    return tuple(found)


def _packed(ordered: Sequence[tuple[str, bytes | None]], spare: int) -> Iterator[Part]:
    """In order, each part as full as may be without the bytes to spare and two keys."""
    puts: dict[str, Scalar] = {}
    deletes: list[str] = []
    left = PART_BYTES - spare
    for key, value in ordered:
        cost = _cost(key, value)
        if cost > left or len(puts) + len(deletes) >= PART_KEYS - 2:
            yield Part(puts, tuple(sorted(deletes)))
            puts, deletes, left = {}, [], PART_BYTES - spare
        left -= cost
        if value is None:
            deletes.append(key)
        else:
            puts[key] = value
    if puts or deletes:
        yield Part(puts, tuple(sorted(deletes)))


def _cost(key: str, value: bytes | None) -> int:
    return len(key) + len(value or b"") + _KEY_BYTES


def _entries(policy: Policy, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Sorted within a kind, so that equal policies are written alike."""
    for _, rule in sorted(policy.rules.items()):
        yield _rule_entry(rule, limits)
    for _, test in sorted(policy.tests.items()):
        yield _test_entry(test, limits)
    for name, tags in sorted(policy.groups.items()):
        yield _group_entry(name, tags, limits)
    for name, services in sorted(policy.services.items()):
        yield _service_entry(name, services, limits)


def _rule_entry(rule: Rule, limits: Limits) -> tuple[str, bytes]:
    fault = rule_fault(rule)
    if fault:
        raise error("policy.document", key="a rule", reason=fault)
    encoded = encode_rule(checked(rule, limits))
    return _entry(f"rule/{content_id(encoded).hex()}", encoded, "", limits)


def _test_entry(test: PolicyTest, limits: Limits) -> tuple[str, bytes]:
    encoded = encode_test(test)
    return _entry(f"test/{content_id(encoded).hex()}", encoded, expectation_fault(test, limits), limits)


def _group_entry(name: str, tags: tuple[str, ...], limits: Limits) -> tuple[str, bytes]:
    return _entry(f"group/{name}", canonical.encode(tags), group_fault(name, tags), limits)


def _service_entry(name: str, services: tuple[Service, ...], limits: Limits) -> tuple[str, bytes]:
    encoded = canonical.encode([str(service) for service in services])
    return _entry(f"service/{name}", encoded, named_fault(name, services), limits)


def _entry(key: str, encoded: bytes, fault: str, limits: Limits) -> tuple[str, bytes]:
    if not fault and len(encoded) > limits.value_bytes:
        fault = f"it has {len(encoded)} bytes, and at most {limits.value_bytes} fit"
    if fault:
        raise error("policy.document", key=key, reason=fault)
    return key, encoded


def _size(mapping: Mapping[str, Scalar]) -> int:
    return sum(len(key) + (len(value) if isinstance(value, bytes) else 0) for key, value in mapping.items())
