"""Two linked hosts, and how long the tests of the bench wait."""

from __future__ import annotations

from appliance.lab.site import Host, Link, Shape, Site

BOTH = ("10.9.0.0/24", "fd09::/64")
SHORT_S = 0.2  # to see that nothing comes
PATIENT_S = 10.0  # a busy machine is no failure, and neighbour discovery asks again only after a second


def pair(site: Site, shape: Shape | None = None) -> tuple[Host, Host, Link]:
    """Hosts `one` and `other`, each with an interface of the other's name."""
    one, other = site.hosts("one", "other")
    return one, other, site.link(one, other, prefixes=BOTH, shape=shape or Shape())
