"""The sources or the destinations of a rule as selectors of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from appliance.policy.canonical_rule import canonical_selectors
from appliance.policy.model import AnySelector, Selector, TagSelector
from appliance.policy.tailscale.addresses import INTERNET, Addresses
from appliance.policy.tailscale.extent import Extent
from appliance.policy.tailscale.names import is_user, meant
from appliance.policy.tailscale.principals import DOMAIN, MEMBER, ROLES, TAGGED, Alias, Principals
from appliance.policy.tailscale.report import Need, NoEqualError, Placed, Report

EVERYTHING = "*"
SELF = "autogroup:self"
DANGER_ALL = "autogroup:danger-all"
SHARED = "autogroup:shared"

_LEGACY = {"autogroup:members": MEMBER}
_NO_EQUAL = {
    INTERNET: (
        "means the internet through exit nodes, and the mesh has none",
        "Take it out; where hosts need the internet, give it to them at their gateway.",
    ),
    SHARED: (
        "means people of other tailnets with whom devices are shared, and nobody from outside is on the mesh",
        "Take it out; who needs access joins the mesh as a node with a tag of its own.",
    ),
    "autogroup:nonroot": ("names users of a computer, for Tailscale SSH alone", "Take it out of this list."),
}
_AUTOGROUPS = (MEMBER, TAGGED, SELF, DANGER_ALL, *ROLES, *_NO_EQUAL, *_LEGACY)
_SERVICE = "svc:"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a list of sources or destinations: one of these."""

    everything: bool = False
    own: bool = False  # `autogroup:self`
    alias: Alias | None = None  # users, groups and tags
    extent: Extent | None = None  # addresses, hosts and IP sets


class Sides:
    """Says what the entries of these lists mean, and writes whole lists as selectors."""

    def __init__(self, principals: Principals, addresses: Addresses, report: Report) -> None:
        self._principals, self._addresses, self._report = principals, addresses, report

    def narrowed(self, text: str) -> tuple[str, str] | None:
        """Why a name means fewer than it may in Tailscale, and what to do; None if it does not."""
        if text == DANGER_ALL:
            return (
                "also meant devices outside the tailnet; it means every node and host of the mesh, and nobody else",
                "Nothing has to be done: who is no member cannot send to the mesh.",
            )
        if text == SELF:
            return (
                "pairs the devices of those users whom the file or the mapping file names",
                "For a new user add a tag of its own to the sources of that rule.",
            )
        if _LEGACY.get(text, text) == MEMBER and self._principals.members_are_listed:
            return (
                "means those users whom the file or the mapping file names",
                "Give the devices of all users one tag, and name it in the mapping file under members.",
            )
        return None

    def alias(self, text: str) -> Alias | None:
        """The users or tagged devices that a name means; None for anything else."""
        text = _LEGACY.get(text, text)
        if text == MEMBER:
            return self._principals.members
        if text == TAGGED:
            return self._principals.tagged
        if text in ROLES or text.startswith(("group:", DOMAIN)):
            return self._principals.group(text)
        if text.startswith("tag:"):
            return self._principals.tag(text)
        return self._principals.user(text) if is_user(text) else None

    def end(self, text: str, *, source: bool) -> End:
        """What one entry means."""
        if text == EVERYTHING or (text == DANGER_ALL and source):
            return End(everything=True)
        if text == SELF and not source:
            return End(own=True)
        if text in _NO_EQUAL:
            raise NoEqualError(text, *_NO_EQUAL[text])
        if text in {SELF, DANGER_ALL}:
            raise NoEqualError(
                text, f"cannot be a {'source' if source else 'destination'}", "Take it out of this list."
            )
        alias = self.alias(text)
        if alias is not None:
            return End(alias=alias)
        if not self._addresses.is_known(text):
            raise _unknown(text, self._addresses.names())
        return End(extent=self._addresses.extent(text))

    def selectors(self, ends: Sequence[tuple[Placed, End]]) -> tuple[Selector, ...]:
        """A list as selectors, without `self`. What no selectors stand for exactly is refused where it stands."""
        if any(end.everything for _, end in ends):
            return (AnySelector(),)
        together = frozenset(who for _, end in ends if end.alias is not None for who in end.alias.principals)
        extent = Extent()
        tags: set[str] = set()
        for at, end in ends:
            with self._report.refusing(at):
                if end.alias is not None:
                    tags |= self._principals.cover(end.alias, together)
                if end.extent is not None:
                    extent |= end.extent
        return canonical_selectors((*map(TagSelector, tags), *extent.selectors()))

    def own(self, ends: Sequence[tuple[Placed, End]], *, grant: bool) -> tuple[Selector, ...]:
        """The sources of a rule to `self`: for each user a tag of its own. In an ACL `*` means every user."""
        chosen: set[Selector] = set()
        for at, end in ends:
            with self._report.refusing(at):
                alias = self._principals.members if end.everything and not grant else end.alias
                if alias is None or self._principals.has_tags(alias):
                    raise NoEqualError(SELF, "goes with users and groups of users alone", "Name users as the sources.")
                chosen.update(map(TagSelector, self._principals.own(alias)))
        return canonical_selectors(chosen)


def _unknown(text: str, known: Iterable[str]) -> NoEqualError:
    if text.startswith("autogroup:"):
        return NoEqualError(text, "is no autogroup that has an equal here", meant(text, _AUTOGROUPS, "Take it out."))
    if text.startswith(_SERVICE):
        return NoEqualError(
            text,
            "is a Tailscale Service, which the mesh does not have",
            "Say in the mapping file, under hosts, which node, tag or prefix serves it.",
            (Need("hosts", text),),
        )
    advice = meant(text, known, "Define it under hosts, or correct the name.")
    return NoEqualError(text, "is no user, group, tag, host or address of the file", advice)
