"""One record of every bound: sizes, counts, retries, timeouts.

A limit is an argument of the code that keeps it, so tests can set it low. This module never reads
configuration and holds no limit that a peer could choose.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a node. Those that decide whether a batch is valid must be equal on all nodes of a mesh."""

    # Batches: equal on all nodes of a mesh.
    batch_bytes: int = 65_536  # bytes of a payload; one batch fits sixteen to a sync frame
    batch_entries: int = 256  # entries of a batch
    entry_bytes: int = 49_152  # bytes of one entry body; leaves a batch room for heads and parents
    batch_parents: int = 64  # parents of a batch; more heads than this are merged over several batches
    author_batches: int = 1_000_000  # batches of one author in an epoch: a year of one every 31 s
    clock_ahead_ms: int = 300_000  # ms a batch may be ahead of us; five minutes, as in RFC 4120
    branches_per_author: int = 1_024  # branches kept of a forked author; two are the proof, 40 KiB of a vector
    revocations_per_target: int = 64  # revocations of one key by one author; bounds what they cost to settle
    tags_per_node: int = 64  # tags of one node
    subnets_per_node: int = 64  # prefixes behind one node

    # Canonical CBOR.
    cbor_bytes: int = 1 << 20  # bytes of one encoded value; equals a sync frame
    cbor_depth: int = 16  # nested arrays, maps and tags; our deepest record needs 5
    cbor_items: int = 20_000  # items in arrays and maps of one value; bounds memory to some MiB

    # Grants.
    grant_depth: int = 4  # grants from the authority to a leaf
    grant_roles: int = 16  # roles in one grant; there are seven today

    # Automerge documents: bounds that the change decoder keeps, because Automerge itself has none.
    change_bytes: int = 32_768  # bytes of one change chunk; below entry_bytes
    change_ops: int = 2_000  # operations of one change
    change_deps: int = 64  # changes that one follows directly; more heads are merged in several steps
    change_preds: int = 64  # concurrent values of a key that one operation replaces; the highest go first
    doc_keys: int = 700_000  # keys of one document: 10,000 nodes of 64 tags and a few more fields
    text_bytes: int = 256  # UTF-8 bytes of a name, key, tag or actor text
    value_bytes: int = 16_384  # bytes of one value in a document

    # Batches whose parents are missing.
    parked_batches: int = 4_096  # batches that wait
    parked_bytes: int = 16 << 20  # of memory for all that wait, and what they wait for; a fifth of the memory goal

    # Appending.
    append_queue: int = 4_096  # callers that wait for a durable append
    group_commit: int = 512  # batches of one transaction; 500 reach 17-21 k inserts/s on SQLite FULL

    # Synchronisation of two replicas.
    sync_frame_bytes: int = 1 << 20  # bytes of one frame
    sync_window_bytes: int = 4 << 20  # bytes in flight before a peer must acknowledge
    sync_stall_s: int = 20  # seconds without progress before a peer is dropped
    sync_duplicates_bytes: int = 8 << 20  # bytes of batches we held already that a peer may send in a session
    sync_vector_bytes: int = 8 << 20  # bytes of a peer's vector entries in a round: 100,000 authors, 7.5 MB
    sync_control_burst: int = 256  # control frames a peer may send at once; sixteen full rounds
    sync_control_per_s: int = 8  # control frames a second after that; an idle peer sends one in 30 s
    sync_keepalive_s: int = 30  # seconds of silence before a ping of 48 bytes
    sync_rounds: int = 3  # comparisons of ours one after the other before we pause
    sync_round_pause_s: int = 10  # seconds of that pause; a round costs about 10 KB
    sync_offers: int = 4_096  # new batches that wait to be pushed to one peer; more are found by a new round

    # Connections.
    handshake_s: int = 10  # seconds for a TLS handshake; measured 4.5 ms on loopback
    connections: int = 256  # connections in all
    connections_per_peer: int = 4  # connections of one peer key
    half_open: int = 64  # connections whose peer is not known yet; one makes room for the newest
    refusal_s: int = 1  # seconds to tell a peer why it is refused, or to part from it
    guests: int = 64  # connections of who is no member and has shown nothing yet; one makes room for the newest
    guests_per_host: int = 32  # of those, from one host: a site behind one address may enrol many nodes at once
    guests_standing: int = 256  # guests whose token stands, and who wait for a decision; they may leave and come back
    guest_s: int = 20  # seconds for a guest to show a token that stands; it needs two round trips and 5 ms of work
    guest_frames: int = 16  # frames of a guest at once, and one a second after that; an enrolment needs three
    guest_message_bytes: int = 16_384  # bytes of one message of a guest; a request is 7 KB
    heartbeat_s: int = 20  # seconds of silence before a ping; half as long again ends a stream
    redial_max_s: int = 30  # seconds at most before a lost peer is dialled again
    peer_backoff_min_s: int = 1  # seconds before the first retry, and for which a peer is left alone at first
    peer_backoff_max_s: int = 300  # seconds for which a peer that goes on breaking the protocol is left alone

    # Policy: what a document may hold is judged alike by all nodes of a mesh. Of 5,000 rules made like a factory's the
    # figure is given; the bound is what costs a node a second or two.
    policy_rules: int = 5_000  # rules of a policy
    policy_tests: int = 2_000  # tests of a policy
    policy_names: int = 1_000  # groups, and named services
    policy_selectors: int = 64  # selectors on a side of a rule; a rule of node ids then still fits a value
    policy_services: int = 64  # services of a rule
    policy_bytes: int = 2 << 20  # bytes of a document, keys and values; a factory's 0.7 MB
    policy_ends: int = 50_000  # selectors of all rules; a factory's 11,000
    policy_pieces: int = 12_000  # rules, those to `self` once for each source: 5,000, and 100 of them for 64 cells
    policy_ranges: int = 32_768  # ranges of ports that rules tell apart; a factory's 1,500
    policy_overlaps: int = 1_000_000  # those, each once for every list of services that has it; a factory's 24,000
    policy_trials: int = 1_000_000  # ranges of ports of the rules about a test's ends, of all tests; a factory's 65,000
    policy_depth: int = 16  # nested lists and mappings in a text; a policy needs 4
    policy_text_bytes: int = 1 << 20  # bytes of a policy as text: 5,000 rules of 200

    # What one node enforces of it, which hangs on who is who.
    filter_entries: int = 262_144  # elements of one node's filter: 10,000 peers and 25 entries for each
    filter_steps: int = 3_000_000  # groups, rules and services looked at to make it; 900,000 come with its most entries

    # Yggdrasil.
    yggdrasil_answer_bytes: int = 16 << 20  # bytes of an answer of its admin socket; 10,000 peers of 500 bytes, thrice
    yggdrasil_answer_s: int = 5  # seconds for an answer of its admin socket; measured 1 ms
    yggdrasil_start_s: int = 10  # seconds until a new daemon must answer; measured 0.1 s
    yggdrasil_stop_s: int = 3  # seconds to end by itself before it is killed; measured 0.02 s
    yggdrasil_peers: int = 8  # peers dialled at once; more links cost every one of them the tree's announcements
    yggdrasil_restarts: int = 5  # crashes within ten minutes before restarts become slow
    yggdrasil_log_bytes: int = 1 << 20  # bytes of the daemon's log before it begins anew

    # The firewall in the kernel.
    firewall_attempts: int = 8  # tries of one change while others change the ruleset, or answers are lost
    firewall_patience_ms: int = 2_000  # that a look at a set makes way for changes; then one waits for it, 0.1 s
    firewall_gets: int = 128  # elements read back one by one, 20 us each; of more all are read, 1 us each
    firewall_drops: int = 1_024  # dropped packets remembered; 200 KiB
    firewall_drops_per_s: int = 20  # dropped packets shown, of each reason; the rest is dropped unseen
    firewall_memory: int = 16_384  # source, target and service whose key is remembered, each way; 2 MiB of the kernel
    firewall_memory_ms: int = 10_000  # for so long; the next packet looks its key up in the maps again
    firewall_flows: int = 4_096  # conversations listed at once; 1 MiB of JSON

    # The control socket.
    control_body_bytes: int = 8 << 20  # bytes of a request body
    control_request_s: int = 60  # seconds for one request


LIMITS: Final = Limits()
