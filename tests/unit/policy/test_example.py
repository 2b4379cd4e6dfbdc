"""The example of the manual is a policy that its own tests accept, and the page shows the same rules."""

from __future__ import annotations

import re
from pathlib import Path

from appliance.policy.directory import Directory
from appliance.policy.parse import parse
from appliance.policy.trial import run_tests

DOCS = Path(__file__).resolve().parents[3] / "docs"
IN_TIME_MS = 1_790_000_000_000  # September 2026: the vendor's contract runs


def test_the_factory_cell_of_the_manual_passes_its_tests() -> None:
    policy = parse((DOCS / "examples/factory-cell.yaml").read_text(encoding="utf-8"), Directory()).policy
    assert len(policy.rules) == 6
    assert run_tests(policy, IN_TIME_MS) == ()


def test_what_the_page_shows_is_part_of_the_example() -> None:
    page = (DOCS / "policy.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    example = (DOCS / "examples/factory-cell.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in page.splitlines() if line not in example] == []


def test_every_guarantee_of_the_page_names_a_test_that_exists() -> None:
    named = re.findall(r"\[`(test_\w+)`\]\((\.\./tests/[^)]+)\)", (DOCS / "policy.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    missing = [f"{path}: {name}" for name, path in named if f"def {name}(" not in (DOCS / path).read_text("utf-8")]
    assert missing == []
