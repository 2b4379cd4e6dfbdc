"""The skeleton of a mapping file for a policy file: every line that is missing, with what may be written there."""

from __future__ import annotations

import json
import re
from typing import Final

from appliance.policy.directory import Directory
from appliance.policy.tailscale.mapping import EMPTY, MEMBERS, Mapping
from appliance.policy.tailscale.report import Need
from appliance.policy.tailscale.translation import survey

_HEAD: Final = {
    MEMBERS: "A tag that the devices of all users hold.",
    "users": "Users, and the tags that all their devices hold. Users whom rules name alone need a tag of their own.",
    "groups": "Groups, and the tags that the devices of all their users hold.",
    "tags": "Tags whose names cannot be kept.",
    "hosts": "Hosts, addresses and prefixes, and what takes their place: an IPv6 prefix, node:NAME or tag:NAME.",
}
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[@:][A-Za-z0-9._@-]*[A-Za-z0-9]")  # a key of YAML without quotes


def mapping_template(text: str, directory: Directory | None = None, mapping: Mapping = EMPTY) -> str:
    """A mapping file in YAML with the lines that the translation of a policy file misses.

    Tags are suggestions; what nobody can guess, such as where an IPv4 prefix went, is left open. Raises the reader's
    errors for what is no HuJSON.
    """
    found = survey(text, directory or Directory(), mapping)
    lines: dict[Need, int] = {}
    for refusal in found.refused:
        for need in refusal.needs:
            lines.setdefault(need, refusal.line)
    parts: list[str] = []
    for section, head in _HEAD.items():
        needs = sorted(need for need in lines if need.section == section)
        if needs:
            parts.append("\n".join([f"# {head}", *_section(section, needs, lines)]))
    return "\n\n".join(parts) + "\n" if parts else "# Nothing has to be mapped.\n{}\n"


def _section(section: str, needs: list[Need], lines: dict[Need, int]) -> list[str]:
    if section == MEMBERS:
        return [f"{section}: {need.suggestion}  # line {lines[need]}" for need in needs]
    return [f"{section}:", *(f"  {_key(need.key)}: {need.suggestion}  # line {lines[need]}" for need in needs)]


def _key(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
