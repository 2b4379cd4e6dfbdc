"""Migration from Tailscale and headscale: their policy file as a policy of ours, or the reasons why not."""

from appliance.policy.tailscale.mapping import Mapping, read_mapping
from appliance.policy.tailscale.report import Carried, Left, Need, Refusal, Survey, Translation
from appliance.policy.tailscale.template import mapping_template
from appliance.policy.tailscale.translation import survey, translate

__all__ = [
    "Carried",
    "Left",
    "Mapping",
    "Need",
    "Refusal",
    "Survey",
    "Translation",
    "mapping_template",
    "read_mapping",
    "survey",
    "translate",
]
