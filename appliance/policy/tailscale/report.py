"""What a translation says about the file: carried over, not carried over, refused. Lines and columns count from 1.

Nothing of a file goes unmentioned. What decides who may reach whom and has no equal here is refused; what decides
nothing about that is named with what to do instead.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from appliance.policy.model import Policy, RuleId


class Placed(Protocol):
    """Anything that knows where it stands in a file."""

    @property
    def line(self) -> int:
        """From 1."""
        ...

    @property
    def column(self) -> int:
        """From 1, in characters."""
        ...


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file that became rules or tests of ours."""

    line: int
    column: int
    name: str  # such as `acls[3]`
    rules: tuple[RuleId, ...] = ()
    tests: tuple[bytes, ...] = ()


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What is not carried over, or not quite as it was, without changing who may reach whom."""

    line: int
    column: int
    name: str
    why: str
    advice: str  # what to do instead


class Need(msgspec.Struct, frozen=True, order=True):
    """A line that the mapping file lacks: its section, its key, and a value that may do; empty if nobody can guess."""

    section: str
    key: str
    suggestion: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What decides who may reach whom and has no equal here, or none yet."""

    line: int
    column: int
    name: str
    why: str
    advice: str
    needs: tuple[Need, ...] = ()

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.name} {self.why}"


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to say about a file. The policy is there only if nothing is refused."""

    policy: Policy | None
    carried: tuple[Carried, ...]
    left: tuple[Left, ...]
    refused: tuple[Refusal, ...]

    def needs(self) -> tuple[Need, ...]:
        """What the mapping file lacks, each once, sorted."""
        return tuple(sorted({need for refusal in self.refused for need in refusal.needs}))


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """A file as a policy of ours, whose tests pass."""

    policy: Policy
    carried: tuple[Carried, ...]
    left: tuple[Left, ...]


class NoEqualError(Exception):
    """Something has no equal here. It never leaves this package: `Report.refusing` gives it a place."""

    def __init__(self, name: str, why: str, advice: str, needs: tuple[Need, ...] = ()) -> None:
        super().__init__(f"{name} {why}")
        self.name, self.why, self.advice, self.needs = name, why, advice, needs


class Report:
    """Collects what there is to say, in the order of the file."""

    def __init__(self) -> None:
        self.carried: list[Carried] = []
        self.left: list[Left] = []
        self._refused: dict[Refusal, None] = {}  # each once

    def leave(self, at: Placed, name: str, why: str, advice: str) -> None:
        """Say that something is not carried over."""
        self.left.append(Left(line=at.line, column=at.column, name=name, why=why, advice=advice))

    def refuse(self, at: Placed, fault: NoEqualError) -> None:
        """Say that something has no equal; the same is said of a place once."""
        refusal = Refusal(
            line=at.line, column=at.column, name=fault.name, why=fault.why, advice=fault.advice, needs=fault.needs
        )
        self._refused[refusal] = None

    @property
    def refusals(self) -> int:
        """How many there are so far."""
        return len(self._refused)

    def refusing(self, at: Placed) -> _Refusing:
        """Work on what stands at a place: what has no equal is refused there, and the work goes on after it."""
        return _Refusing(self, at)

    def survey(self, policy: Policy) -> Survey:
        """All of it, sorted by place."""
        return Survey(
            policy=None if self._refused else policy,
            carried=tuple(sorted(self.carried, key=_place)),
            left=tuple(sorted(self.left, key=_place)),
            refused=tuple(sorted(self._refused, key=_place)),
        )


class _Refusing:
    """Catches what has no equal; everything else goes on."""

    def __init__(self, report: Report, at: Placed) -> None:
        self._report, self._at = report, at

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> bool:
        if not isinstance(raised, NoEqualError):
            return False
        self._report.refuse(self._at, raised)
        return True


def _place(said: Placed) -> tuple[int, int]:
    return said.line, said.column
