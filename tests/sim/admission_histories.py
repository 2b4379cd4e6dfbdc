"""Histories of admission: gateways and approvers who mostly do their work, each knowing what it likes to know.

Beside tests/sim/histories.py, in which anybody may write anything, these reach far into the table of states: tokens are
redeemed on several islands, certified, decided about both ways, retired and revoked, and logs fork now and then.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.core.limits import LIMITS, Limits
from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    TokenEntry,
)
from appliance.trust.grants import Role
from appliance.trust.tokens import peek_token, token_id
from tests.sim import papers
from tests.sim.histories import History
from tests.sim.world import Member

NEWCOMERS = ("fay", "gus", "hal")
ACTIONS = (*Action, Action.RESUME, Action.SUSPEND)


class AdmissionHistory(History):
    """Anna and bert own the mesh, cleo approves anything, dora what is tagged robot; emil and bert are gateways."""

    def __init__(self, tape: bytes, limits: Limits = LIMITS) -> None:
        self._latest: dict[str, bytes] = {}  # of each newcomer, the token that it asked with last
        super().__init__(tape, limits)

    def _begin(self, members: list[Member]) -> None:
        self._scribe.forks = 30
        self._by_name = {member.name: member for member in members} | {
            name: self.mesh.member(name) for name in NEWCOMERS
        }
        self._scribe.members = list(self._by_name.values())
        self._scribe.logs.update({self._by_name[name].id: [] for name in NEWCOMERS})
        anna, bert, cleo, dora, emil = members[:5]
        root = self._give(None, anna, anna, Role.OWNER, delegate=3)
        self._papers = {"anna": root}
        self._papers["bert"] = self._give(anna, anna, bert, Role.OWNER, parent=root, delegate=2)
        for approver, scope in ((cleo, ()), (dora, ("robot",))):
            blob = self._scribe.keep(self.mesh.grant(anna, approver, Role.APPROVER, parent=root, scope=scope))
            self._publish(self._scribe.sign(anna, GrantEntry(blob), at_ms=0))
            self._papers[approver.name] = blob
        self._give(anna, anna, emil, Role.MEMBER, parent=root, delegate=0)
        for issuer in (cleo, dora):
            token = self._token(issuer)
            self._publish(self._scribe.sign(issuer, token, at_ms=0))

    def _next(self) -> None:
        """Work at the door, or now and then whatever a member may write."""
        if self._choices.number(8) == 7:
            super()._next()
            return
        kinds: tuple[Callable[[], tuple[Member, EntryBody] | None], ...] = (
            self._enrol,
            self._certify,
            self._decide,
            self._enrol,
            self._certify,
            self._decide,
            self._certify,
            self._renewed_token,
            self._retire,
            self._revoke,
        )
        made = self._choices.one_of(kinds)()
        self._scribe.step += 1
        if made is not None:
            self._publish(self._scribe.sign(*made))

    def _approver(self) -> Member:
        return self._by_name[self._choices.one_of(("cleo", "dora", "bert", "anna"))]

    def _newcomer(self) -> Member:
        return self._by_name[self._choices.one_of(NEWCOMERS)]

    def _token(self, issuer: Member) -> TokenEntry:
        tags = self._choices.one_of((("robot",), ("robot",), ("gate", "robot"), ()))
        blob = papers.token(
            self.mesh,
            issuer,
            self._papers[issuer.name],
            (self._by_name["bert"], self._by_name["emil"]),
            tags=("robot",) if issuer.name == "dora" else tags,
            uses=1 + self._choices.number(2),
            number=self._scribe.drawer.next(),
        )
        self._scribe.drawer.tokens.append(blob)
        return TokenEntry(blob, "")

    def _renewed_token(self) -> tuple[Member, EntryBody]:
        issuer = self._approver()
        return issuer, self._token(issuer)

    def _enrol(self) -> tuple[Member, EntryBody]:
        gateway, node = self._by_name[self._choices.one_of(("emil", "bert"))], self._newcomer()
        token = self._choices.one_of(self._scribe.drawer.tokens[:-4:-1])
        self._latest[node.name] = token
        self._scribe.drawer.asked.append((token, node))
        return gateway, EnrolEntry(token, papers.request(self.mesh, node, token))

    def _certify(self) -> tuple[Member, EntryBody]:
        approver, node = self._approver(), self._newcomer()
        token = self._latest.get(node.name)
        tags = ("robot",) if token is None else peek_token(token).tags
        blob = papers.certificate(
            self.mesh,
            approver,
            self._papers[approver.name],
            node,
            enrolment=None if token is None else papers.enrolment(token, node),
            tags=self._choices.one_of((tags, tags, ("robot",))),
            number=self._scribe.drawer.next(),
        )
        self._scribe.drawer.certificates.append(blob)
        return approver, CertifyEntry(blob, "")

    def _decide(self) -> tuple[Member, EntryBody]:
        return self._approver(), DecideEntry(self._newcomer().id, self._choices.one_of(ACTIONS), "", "")

    def _retire(self) -> tuple[Member, EntryBody]:
        return self._approver(), RetireEntry(token_id(self._choices.one_of(self._scribe.drawer.tokens[:-4:-1])), "")

    def _revoke(self) -> tuple[Member, EntryBody]:
        """Mostly a newcomer; an approver, an issuer or a gateway as well, with a cut that keeps some of its work."""
        names = (*NEWCOMERS, *NEWCOMERS, "cleo", "dora", "emil")
        target = self._by_name[self._choices.one_of(names)]
        log = self._scribe.logs[target.id]
        cut = self._choices.one_of([log[-1], *log, None]) if log else None
        seq, head = (0, None) if cut is None else (cut.batch.seq, cut.hash)
        return self._approver(), RevokeEntry(target.id, (), seq, head, "")
