"""All routes of the control API, version 1. Each resource has a module; this one only lists them."""

from __future__ import annotations

from aiohttp import web

from appliance.daemon.control.admissions import AdmissionRoutes
from appliance.daemon.control.enrolment import EnrolmentRoutes
from appliance.daemon.control.links import LinkRoutes
from appliance.daemon.control.mesh import MeshRoutes
from appliance.daemon.control.network import NetworkRoutes
from appliance.daemon.control.policy import PolicyRoutes
from appliance.daemon.control.replica import ReplicaRoutes
from appliance.daemon.control.roles import RoleRoutes
from appliance.daemon.control.tokens import TokenRoutes
from appliance.daemon.control.upkeep import UpkeepRoutes
from appliance.daemon.node import Node


def routes(node: Node) -> list[web.RouteDef]:  # size: the table must be one; a line is a route
    """Method, path and handler."""
    mesh, replica, upkeep = MeshRoutes(node), ReplicaRoutes(node), UpkeepRoutes(node)
    roles, links = RoleRoutes(node), LinkRoutes(node)
    policy, network = PolicyRoutes(node), NetworkRoutes(node)
    tokens, admissions, enrolment = TokenRoutes(node), AdmissionRoutes(node), EnrolmentRoutes(node)
    return [
        web.get("/v1/mesh", mesh.show),
        web.post("/v1/mesh", mesh.create),
        web.post("/v1/mesh/membership", mesh.join),
        web.get("/v1/key", mesh.key),
        web.get("/v1/replica/status", replica.status),
        web.get("/v1/replica/watch", replica.watch),
        web.get("/v1/replica/batches", replica.log),
        web.get("/v1/replica/batches/{batch}", replica.show),
        web.get("/v1/replica/no-effect", replica.no_effect),
        web.get("/v1/replica/conflicts", replica.conflicts),
        web.post("/v1/replica/verify", upkeep.verify),
        web.post("/v1/replica/rebuild", upkeep.rebuild),
        web.post("/v1/replica/export", upkeep.export),
        web.post("/v1/replica/import", upkeep.import_),
        web.post("/v1/replica/archive", upkeep.archive),
        web.post("/v1/replica/checkpoints", upkeep.checkpoint),
        web.get("/v1/grants", roles.grants),
        web.post("/v1/grants", roles.grant),
        web.post("/v1/revocations", roles.revoke),
        web.post("/v1/thaws", roles.thaw),
        web.get("/v1/nodes", roles.nodes),
        web.patch("/v1/nodes/{node}/tags", roles.tags),
        web.put("/v1/nodes/{node}/name", roles.name),
        web.get("/v1/links", links.show),
        web.post("/v1/links/cut", links.cut),
        web.post("/v1/links/restore", links.restore),
        web.patch("/v1/nodes/{node}/subnets", roles.subnets),
        web.post("/v1/mesh/secrets", mesh.rotate),
        web.get("/v1/policy", policy.show),
        web.post("/v1/policy", policy.apply),
        web.post("/v1/policy/tests", policy.tests),
        web.post("/v1/policy/preview", policy.preview),
        web.post("/v1/policy/confirmation", policy.confirm),
        web.post("/v1/policy/explanation", policy.explain),
        web.post("/v1/policy/imports/tailscale", policy.import_tailscale),
        web.get("/v1/policy/revisions", policy.history),
        web.get("/v1/policy/revisions/{revision}", policy.revision),
        web.get("/v1/network", network.show),
        web.get("/v1/network/peers", network.peers),
        web.get("/v1/network/routes", network.routes),
        web.get("/v1/network/flows", network.flows),
        web.get("/v1/network/drops", network.drops),
        web.get("/v1/network/checks", network.checks),
        web.post("/v1/network/probes", network.probe),
        web.post("/v1/network/captures", network.capture),
        web.get("/v1/tokens", tokens.list),
        web.post("/v1/tokens", tokens.create),
        web.get("/v1/tokens/{token}", tokens.show),
        web.delete("/v1/tokens/{token}", tokens.retire),
        web.get("/v1/admissions", admissions.list),
        web.get("/v1/admissions/{node}", admissions.show),
        web.get("/v1/admissions/{node}/events", admissions.events),
        web.post("/v1/admissions/{node}/decisions", admissions.decide),
        web.post("/v1/admissions/{node}/certificates", admissions.approve),
        web.put("/v1/admissions/{node}/certificates", admissions.renew),
        web.post("/v1/enrolment", enrolment.begin),
        web.get("/v1/enrolment", enrolment.show),
        web.get("/v1/enrolment/watch", enrolment.watch),
        web.delete("/v1/enrolment", enrolment.give_up),
    ]
