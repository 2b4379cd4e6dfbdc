"""The sections of a policy file: those that bear on flows, and those that do not, with what takes their place here.

Syntax: the reference of the tailnet policy file, whose field names do not depend on case.
"""

from __future__ import annotations

from typing import Final

FLOWS: Final = {"acls", "grants", "groups", "hosts", "ipsets", "tagowners", "tests"}
DEFAULT_POSTURE: Final = "defaultsrcposture"

OTHERS: Final = {  # section: why it is not carried over, what to do
    "autoapprovers": (
        "says who may advertise routes and exit nodes without being asked",
        "An admin declares the subnets of each gateway; there are no exit nodes.",
    ),
    "derpmap": (
        "names relays of Tailscale's own protocol",
        "Any member can be a relay: list the peers of each node in its settings.",
    ),
    "disableipv4": ("switches off IPv4, which the mesh does not carry at all", "Nothing has to be done."),
    "nodeattrs": (
        "sets properties of Tailscale's client: DNS, Funnel, app connectors",
        "Set what you need in the settings of each node.",
    ),
    "onecgnatroute": ("is about routes of Tailscale's IPv4 addresses", "Nothing has to be done."),
    "postures": (
        "describes devices for rules that ask for it, and such rules are refused",
        "Attestation decides here whether a device becomes a member: see its required level.",
    ),
    "randomizeclientport": (
        "is about the port of Tailscale's client",
        "Choose the port of a node in its settings if the default does not do.",
    ),
    "ssh": (
        "says who may log in through Tailscale SSH; what may reach port 22 is in acls and grants",
        "Let sshd decide who may log in, by keys or certificates.",
    ),
    "sshtests": ("tests the section ssh, which is not carried over", "Test the logins that you set up instead."),
}
TAG_OWNERS: Final = (
    "says who may give a tag to a device; the tags are carried over, their owners are not",
    "Tags are given by admins here, and by the tokens that they issue: grant the role to who needs it.",
)
TEST_POSTURE: Final = (
    "describes the device of the test for rules with a posture, and there is none",
    "Nothing has to be done: the test is carried over without it.",
)
CAPABILITIES: Final = (
    "gives rights inside an application, not a flow",
    "Set them up in the application; the ports in `ip` are carried over.",
)
POSTURE: Final = (
    "lets in only devices of a certain state, and a rule here does not look at that",
    "Take it out if the attestation that members need says enough; without it the rule lets more devices in.",
)
VIA: Final = (
    "lets the traffic pass certain routers only, and a rule here does not choose the way",
    "Take it out: who speaks for a prefix is declared with the gateway.",
)

ACL_FIELDS: Final = {"action", "proto", "src", "users", "dst", "ports", "srcposture"}
GRANT_FIELDS: Final = {"src", "dst", "ip", "app", "srcposture", "via"}
TEST_FIELDS: Final = {"src", "user", "proto", "accept", "allow", "deny", "srcpostureattrs"}
