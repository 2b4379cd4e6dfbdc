"""Watch: follows the policy of one replica, as its daemon does."""

from __future__ import annotations

from appliance.policy.revisions import Course, Revisions
from appliance.replica.document_kinds import POLICY
from appliance.replica.engine import Engine
from appliance.replica.history import History
from appliance.replica.queries import read_change


class Watch:
    """Looks whenever it is asked, and goes on from what it saw before."""

    def __init__(self) -> None:
        self._history = History()
        self._revisions = Revisions()

    def course(self, engine: Engine) -> Course:
        """What is in force there now."""
        self._history.follow(engine.view.changes_of(POLICY), lambda row: read_change(engine, row))
        return self._revisions.update(self._history.changes)
