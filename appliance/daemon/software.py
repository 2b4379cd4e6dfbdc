"""Which program this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def software() -> str:
    """Version of this program."""
    try:
        return version("x0tta6bl4")
    except PackageNotFoundError:  # run from a tree that was never installed
        return "0"
