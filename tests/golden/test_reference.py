"""The reference pages are what the code says; `.venv/bin/python tools/reference.py --write` renews them."""

from __future__ import annotations

import pytest

from tools.reference import PAGES, PLACE


@pytest.mark.parametrize("page", PAGES)
def test_a_reference_page_says_what_the_code_says(page: str) -> None:
    current = (PLACE / page).read_text(encoding="utf-8") == PAGES[page]()
    assert current, f"docs/reference/{page} is stale: run .venv/bin/python tools/reference.py --write"
