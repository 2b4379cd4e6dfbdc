"""A policy file of Tailscale or headscale as records: what it says, in its own words, and where."""

from __future__ import annotations

import msgspec


class Text(msgspec.Struct, frozen=True):
    """A string of the file, and where its quote opens. Line and column count from 1."""

    text: str
    line: int
    column: int

    def __str__(self) -> str:
        return self.text


class Definition(msgspec.Struct, frozen=True):
    """A name that the file gives to something: a group, a host, an IP set, a tag and its owners."""

    name: Text
    members: tuple[Text, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One source or destination: who, and the ports if they stand beside it. `text` is all of it, for people."""

    text: str
    host: str
    ports: str = ""
    line: int
    column: int


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `acls` or of `grants`. An ACL has its ports in each target, a grant beside them, in `ip`."""

    name: str  # such as `acls[3]`
    line: int
    column: int
    sources: tuple[Entry, ...]
    targets: tuple[Entry, ...]  # without ports in a grant
    protocol: Text | None = None  # of an ACL
    ip: tuple[Text, ...] | None = None  # of a grant; None for an ACL


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `tests`: what the author expects of one source."""

    name: str
    line: int
    column: int
    source: Entry
    protocol: Text | None = None
    accept: tuple[Entry, ...] = ()
    deny: tuple[Entry, ...] = ()


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True):
    """All that bears on flows. `silent` is a file with neither `acls` nor `grants`, which allows everything."""

    groups: dict[str, Definition] = {}
    hosts: dict[str, Definition] = {}  # one member each
    ipsets: dict[str, Definition] = {}
    tags: dict[str, Definition] = {}  # `tagOwners`
    accesses: tuple[Access, ...] = ()
    trials: tuple[Trial, ...] = ()
    silent: bool = False

    def named(self) -> set[str]:
        """Every source and destination that a rule or a test names."""
        ruled = (entry for access in self.accesses for entry in (*access.sources, *access.targets))
        tried = (entry for trial in self.trials for entry in (trial.source, *trial.accept, *trial.deny))
        return {entry.host for entry in (*ruled, *tried)}
