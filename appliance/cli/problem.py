"""Problems from the daemon (RFC 9457), turned back into our error families by their key."""

from __future__ import annotations

import msgspec

from appliance.core.errors import ERRORS, X0tError, error

MORE = "also_"  # details of an error that are further errors


class Problem(msgspec.Struct):
    """The members that we use; others are ignored, as RFC 9457 section 3.2 asks."""

    key: str = ""
    detail: str = ""
    hint: str = ""
    exit_code: int = 1
    params: dict[str, str] = {}


class RemoteError(Exception):
    """A problem whose key this version does not know: the daemon's own words are all there is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} [{problem.key}]")
        self.hint = problem.hint
        self.exit_code = problem.exit_code


def as_error(problem: Problem) -> X0tError | RemoteError:
    """The exception to raise for a problem."""
    return error(problem.key, **problem.params) if problem.key in ERRORS else RemoteError(problem)


def further(err: Exception) -> list[str]:
    """What else is wrong, where an error tells of several things, such as the mistakes of one text."""
    return [text for name, text in err.detail.items() if name.startswith(MORE)] if isinstance(err, X0tError) else []
