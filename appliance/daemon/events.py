"""Names of the daemon's log events: constants, so that a rule written on a log keeps working.

A name is `area.what`. What a user must act on is a health issue with a code and never only a log line.
"""

from __future__ import annotations

DAEMON_STARTED = "daemon.started"  # the control socket answers; node, version, data_dir
DAEMON_STOPPING = "daemon.stopping"  # a stop was asked for; signal
DAEMON_STOPPED = "daemon.stopped"  # everything is closed; seconds
DAEMON_FAILED = "daemon.failed"  # the daemon ends by an error; error, hint
NODE_KEY_CREATED = "node.key_created"  # first start made the node's key; node, path
MESH_OPENED = "mesh.opened"  # the replica of a mesh is open; mesh, name
MESH_CREATED = "mesh.created"  # this node founded a mesh; mesh, name
MESH_JOINED = "mesh.joined"  # a mesh descriptor was taken in; mesh, name
AUTHORITY_KEY_IN_FILE = "mesh.authority_key_in_file"  # the authority key lies on this disk; path
JOB_FAILED = "job.failed"  # one round of a job failed and is tried again; job, error
JOB_GIVEN_UP = "job.given_up"  # a job used up its restarts; job, failures
LIBRARY = "library.message"  # a library warned of something; library, text
FAULT = "daemon.fault"  # a part failed that a peer may have made fail, and ended alone; what
LINK_UP = "link.up"  # a peer is connected; peer, address, direction
LINK_DOWN = "link.down"  # a peer is gone; peer, address, reason
LINK_REFUSED = "link.refused"  # a peer was turned away; peer, reason
LINK_DIAL_FAILED = "link.dial_failed"  # a peer did not answer; target, error
LINKS_CUT = "links.cut"  # the operator cut the node off; closed
LINKS_RESTORED = "links.restored"  # the operator joined it again
CONTROL_REQUEST = "control.request"  # one request was answered; method, path, status, ms, request
CONTROL_DENIED = "control.denied"  # a process of another user knocked; uid, pid
CONTROL_FAILED = "control.failed"  # an answer failed for a reason that is ours; request, path
LISTENING = "listener.listening"  # peers may dial; address, port
ANNOUNCED = "node.announced"  # the node told the mesh its name and endpoints; name, endpoints
ANNOUNCE_REFUSED = "node.announce_refused"  # it may not announce itself now; error
ENROLMENT_TRIED = "enrolment.tried"  # a gateway could not be asked, or refused; gateway, error
ENROLMENT_STATE = "enrolment.state"  # the mesh says how this node's request stands; state, reason, gateway
ENROLMENT_DONE = "enrolment.done"  # this node is admitted and follows the mesh; mesh
GUEST_ENROLLED = "admission.enrolled"  # a request was written down here; node, token
GUEST_REFUSED = "admission.refused"  # a guest was sent away; node, reason
DOOR_MOVED = "admission.door"  # strangers may ask to be admitted, or not any more; open, tokens
SYNC_IN_SYNC = "sync.in_sync"  # this replica and the peer's were equal a moment ago; peer, digest
SYNC_ARCHIVED = "sync.archived"  # the peer holds older batches in an archive only: import it here; peer, epoch
ATTACHED = "network.attached"  # the node told the mesh its network key and where its peers dial; uris
ATTACH_REFUSED = "network.attach_refused"  # it may not say so now; error
NETWORK_BLOCKED = "network.blocked"  # the kernel could not be brought to the state of the mesh; error
FIREWALL_APPLIED = "firewall.applied"  # the kernel enforces another filter; added, removed, rebuilt, ended, owed
FIREWALL_DISTURBED = "firewall.disturbed"  # somebody else changed our table, which is being repaired; by
FIREWALL_DIFFERS = "firewall.differs"  # our table was not as we left it, and is being repaired; count, first
POLICY_UNDONE = "policy.undone"  # nobody confirmed a change of policy; revision
POLICY_UNDO_FAILED = "policy.undo_failed"  # what nobody confirmed could not be undone yet; error
