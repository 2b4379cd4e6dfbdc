"""Users and tagged devices as tags of ours: by the mapping file, and never so that a rule lets in more than it did.

In Tailscale a device belongs to one user, or to none and has tags. Here a node has tags, and the mapping file says
which: every device of a user holds all of the user's tags. So a tag stands for those whose devices hold it, and a set
of users is written as tags that nobody else's devices hold. Where no such tags exist the translation would widen a
rule: it is refused, and a tag of its own is asked for.

A principal is a user, a tag of the file, or a group whose members the file does not list: one that a directory of
people provides, a role such as `autogroup:admin`, a domain. It is known by its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, count
from typing import TypeAlias

import msgspec

from appliance.policy.tailscale.file import PolicyFile
from appliance.policy.tailscale.mapping import MEMBERS, Mapping
from appliance.policy.tailscale.names import as_tag, is_tag, is_user, meant
from appliance.policy.tailscale.report import Need, NoEqualError

Principal: TypeAlias = str
Tag: TypeAlias = str

MEMBER = "autogroup:member"
TAGGED = "autogroup:tagged"
ROLES = frozenset(
    f"autogroup:{role}" for role in ("owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor")
)
DOMAIN = "user:*@"
_TOLD = 3  # names in a message; more do not help


class Alias(msgspec.Struct, frozen=True):
    """A name of the file for principals, the tags made for it, and the line of the mapping file that may be missing."""

    text: str
    principals: frozenset[Principal]
    made: frozenset[Tag]
    section: str  # of the mapping file, where a line for it belongs


class Principals:
    """Who holds which tag. Built once for a file and its mapping."""

    def __init__(self, file: PolicyFile, mapping: Mapping) -> None:
        self._file, self._mapping = file, mapping
        self._members = {name: frozenset(map(str, group.members)) for name, group in file.groups.items()}
        self._tags: dict[Principal, frozenset[Tag]] = {}
        self._suggested: dict[str, str] = {}
        self._taken: set[str] = set()
        users = {*mapping.users, *filter(is_user, file.named())}
        users.update(*self._members.values())
        for user in sorted(users):
            groups = (name for name, members in self._members.items() if user in members)
            shared = (tag for name in groups for tag in mapping.groups.get(name, ()))
            self._tags[user] = frozenset((*mapping.users.get(user, ()), *shared, *mapping.members))
        for name in {*mapping.groups, *filter(_unlisted, file.named())} - set(self._members):
            self._tags[name] = frozenset((*mapping.groups.get(name, ()), *mapping.members))
        if mapping.members or not self._tags:
            self._tags[MEMBER] = frozenset(mapping.members)  # of users whom nobody has named
        for name in file.tags:
            bare = name.removeprefix("tag:")
            self._tags[name] = frozenset(mapping.tags.get(name, (bare,) if is_tag(bare) else ()))

    def user(self, text: str) -> Alias:
        """A user."""
        made = frozenset(self._mapping.users.get(text, ()))
        return Alias(text, frozenset((text,)), made, "users")

    def group(self, text: str) -> Alias:
        """A group, a role or a domain: the members if the file lists them, else itself."""
        made = frozenset(self._mapping.groups.get(text, ()))
        if text in self._members:
            return Alias(text, self._members[text], made, "groups")
        if text.startswith("group:") and not made:
            raise NoEqualError(
                text,
                "is defined neither in the file nor in the mapping file",
                meant(text, self._members, "If a directory of people provides it, map it to a tag."),
                (self._need("groups", text),),
            )
        return Alias(text, frozenset((text,)), made, "groups")

    def tag(self, text: str) -> Alias:
        """A tag, which the file must define."""
        if text not in self._file.tags:
            raise NoEqualError(
                text,
                "is not defined in tagOwners",
                meant(text, self._file.tags, "Define it there, or correct the name."),
            )
        return Alias(text, frozenset((text,)), self._tags[text], "tags")

    @cached_property
    def members(self) -> Alias:
        """Everybody with a device of their own: all that is no tag."""
        everybody = frozenset(self._tags) - frozenset(self._file.tags)
        return Alias(MEMBER, everybody, frozenset(self._mapping.members), MEMBERS)

    @cached_property
    def tagged(self) -> Alias:
        """Every device with a tag."""
        tags = frozenset(self._file.tags)
        made = frozenset(tag for name in tags for tag in self._tags[name])
        return Alias(TAGGED, tags, made, "tags")

    @property
    def members_are_listed(self) -> bool:
        """True if no tag stands for all users, so that those are meant whom the files name."""
        return not self._mapping.members

    def has_tags(self, alias: Alias) -> bool:
        """True if an alias means tagged devices, which belong to no user."""
        return not alias.principals.isdisjoint(self._file.tags)

    def cover(self, alias: Alias, together: frozenset[Principal]) -> frozenset[Tag]:
        """Tags that stand for exactly these: every one of them holds one, and nobody else does.

        What no tags stand for alone may still be covered together with the others of the same list.
        """
        tags = self._exact(alias, alias.principals)
        if tags is None:
            tags = self._exact(alias, together)
        if tags is None:
            raise self._widening(alias, together)
        return tags

    def own(self, alias: Alias) -> frozenset[Tag]:
        """For each user a tag that only this user's devices hold: what `self` pairs."""
        unknown = {MEMBER, *self._mapping.groups}  # of all members only those can be split whom somebody names
        wanted = alias.principals - unknown if alias.text == MEMBER else alias.principals
        unlisted = sorted(principal for principal in wanted if not is_user(principal))
        if unlisted:
            why = f"cannot be split into the devices of each user: nobody lists the users of {_some(unlisted)}"
            raise NoEqualError(alias.text, why, "Name the users instead.")
        alone = {user: [tag for tag in self._tags[user] if self._held[tag] == {user}] for user in sorted(wanted)}
        bare = [user for user, tags in alone.items() if not tags]
        if bare:
            rest = f" for {_some(bare)}" if bare != [alias.text] else ""
            raise NoEqualError(
                alias.text,
                f"needs a tag of its own{rest}, so that the devices of one user can be told from those of others",
                "Map each user to a tag that no other has, beside those that they share.",
                tuple(self._need("users", user) for user in bare),
            )
        made = self._mapping.users
        return frozenset(
            min(tags, key=lambda tag: (tag not in made.get(user, ()), tag)) for user, tags in alone.items()
        )

    def known(self, group: str) -> tuple[Tag, ...]:
        """The tags that stand for a group of the file, if there are such."""
        alias = self.group(group)
        return tuple(sorted(self._exact(alias, alias.principals) or ()))

    def examples(self, alias: Alias) -> tuple[frozenset[Tag], ...]:
        """The tags of a device of each principal; of a group with tags for itself alone, those of one in no other."""
        if any(self._held[tag] <= alias.principals for tag in alias.made) and alias.text in {*self._members, MEMBER}:
            return (alias.made | frozenset(self._mapping.members),)
        if any(not self._tags[principal] for principal in alias.principals):
            raise self._widening(alias, alias.principals)
        return tuple(self._tags[principal] for principal in sorted(alias.principals))

    @cached_property
    def _held(self) -> dict[Tag, frozenset[Principal]]:
        result: dict[Tag, set[Principal]] = {}
        for principal, tags in self._tags.items():
            for tag in tags:
                result.setdefault(tag, set()).add(principal)
        return {tag: frozenset(principals) for tag, principals in result.items()}

    def _exact(self, alias: Alias, allowed: frozenset[Principal]) -> frozenset[Tag] | None:
        """Tags that only the allowed hold, enough for all of an alias: those made for it first, then broad ones."""
        candidates = sorted({tag for principal in alias.principals for tag in self._tags[principal]})
        usable = {tag: held for tag in candidates if (held := self._held[tag]) <= allowed}
        chosen: set[Tag] = set()
        missing = set(alias.principals)
        while missing:
            tag = max(usable, key=lambda tag: (tag in alias.made, len(usable[tag] & missing)), default=None)
            if tag is None:
                return None
            held = usable.pop(tag)
            if held & missing:
                chosen.add(tag)
                missing -= held
        return frozenset(chosen)

    def _widening(self, alias: Alias, together: frozenset[Principal]) -> NoEqualError:
        without = sorted(principal for principal in alias.principals if not self._tags[principal])
        if without:
            rest = f": {_some(without)}" if without != [alias.text] else ""
            return NoEqualError(
                alias.text,
                f"has no tag here{rest}",
                "Say in the mapping file which tag its devices hold.",
                self._needs(alias, without),
            )
        others = {
            other
            for principal in alias.principals
            for tag in self._tags[principal]
            for other in self._held[tag] - together
        }
        return NoEqualError(
            alias.text,
            f"has only tags that others hold as well, who would be let in: {_some(sorted(others))}",
            "Map it to a tag of its own, beside those that it shares.",
            self._needs(alias, ()),
        )

    def _needs(self, alias: Alias, without: Sequence[Principal]) -> tuple[Need, ...]:
        """The lines to add: for all tags those that have none here, else the one of the name."""
        keys = without if alias.text == TAGGED else (alias.text,)
        return tuple(self._need(alias.section, key) for key in keys)

    def _need(self, section: str, key: str) -> Need:
        """A line for the mapping file; no two keys are given the same tag, nor one that the file has."""
        if key not in self._suggested:
            base = as_tag(key)
            choices = chain((base, f"{base}-{section.removesuffix('s')}"), (f"{base}-{number}" for number in count(2)))
            self._suggested[key] = next(name for name in choices if name not in self._held and name not in self._taken)
            self._taken.add(self._suggested[key])
        return Need(section, key, self._suggested[key])


def _unlisted(text: str) -> bool:
    """True for a name of users whom the file cannot list."""
    return text in ROLES or text.startswith(("group:", DOMAIN))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {more} more" if more > 0 else "")
