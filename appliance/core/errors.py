"""Five families of error and the one table of all keys; docs/reference/errors.md is made from it.

A family exists because a caller decides differently: Input (you), Denied (not you), State (not now),
Unavailable (try later), Integrity (stop). A key is stable for ever; its message and hint may be reworded.
An error renders as a problem of RFC 9457. This module never logs and never decides what to do next.
"""
# size: the table must be one; its rows are data, three lines each

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

_DETAIL_CHARS: Final = 256  # of one value: details may come from a peer


class X0tError(Exception):
    """Base of the families; raise through `error()`, catch by family or compare `key`."""

    title: ClassVar[str] = "Error"
    family_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, key: str, detail: Mapping[str, str]) -> None:
        spec = ERRORS[key]
        self.key: Final = key
        self.detail: Final[Mapping[str, str]] = detail
        self.message: Final = _ended(spec.message.format_map(_Known(detail)))
        self.hint: Final = spec.hint.format_map(_Known(detail))
        self.status: Final = spec.status
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} [{self.key}]"

    def problem(self) -> dict[str, str | int | dict[str, str]]:
        """The members of an application/problem+json body; `key`, `hint` and `params` are extensions."""
        return {
            "type": f"urn:x0t:error:{self.key}",
            "title": self.title,
            "status": self.status,
            "detail": self.message,
            "key": self.key,
            "hint": self.hint,
            "params": dict(self.detail),
        }


class InputError(X0tError):
    """What was given is wrong: change it."""

    title = "The input is not valid"
    family_status = 400
    exit_code = 2


class DeniedError(X0tError):
    """It is not yours to do: somebody else must, or must let you."""

    title = "Not allowed"
    family_status = 403
    exit_code = 3


class StateError(X0tError):
    """It cannot be done now: the state must change first."""

    title = "Not possible in this state"
    family_status = 409
    exit_code = 4


class UnavailableError(X0tError):
    """Something needed is away or busy: try later."""

    title = "Not available"
    family_status = 503
    exit_code = 5


class IntegrityError(X0tError):
    """Something is forged or damaged: stop and do not trust it."""

    title = "Integrity check failed"
    family_status = 500
    exit_code = 6


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """A row of the table; `http` overrides the status of the family where HTTP has a better one."""

    family: type[X0tError]
    message: str
    hint: str
    http: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status of the error."""
        return self.http or self.family.family_status

    @property
    def exit_code(self) -> int:
        """The exit code of `x0t` for the error."""
        return self.family.exit_code


def error(key: str, /, **detail: object) -> X0tError:
    """The error for *key*, of the right family; KeyError for an unknown key, which is a programming error.

    Details are kept as printable text of at most 256 characters each (bytes as hex); a placeholder
    without a detail reads `?`.
    """
    return ERRORS[key].family(key, {name: _printable(value) for name, value in detail.items()})


class _Known(dict[str, str]):
    """Details for a message; raising an error must not fail on a missing one."""

    def __missing__(self, name: str) -> str:
        return "?"


def _printable(value: object) -> str:
    text = value[: _DETAIL_CHARS // 2].hex() if isinstance(value, bytes) else str(value)[:_DETAIL_CHARS]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _ended(message: str) -> str:
    """With one full stop, also where the last detail is a sentence of its own."""
    return message[:-1] if message.endswith(("..", "?.", "!.")) else message


_Input, _Denied, _State = InputError, DeniedError, StateError
_Unavailable, _Integrity = UnavailableError, IntegrityError

# fmt: off
ERRORS: Final[dict[str, ErrorSpec]] = {
    # ---- address: IPv6 addresses and prefixes
    "address.text": ErrorSpec(_Input,
        "{text} is no IPv6 address or prefix: {reason}.",
        "Write an address such as 200:1234::1, or a prefix such as fd00:1::/64. The mesh carries no IPv4."),

    # ---- admission: how a stranger becomes a member
    "admission.asked": ErrorSpec(_State,
        "{node} asked with this token before.",
        "Nothing is to be done: it is the same enrolment."),
    "admission.banned": ErrorSpec(_Denied,
        "The mesh has banned {node}.",
        "Ask an approver; only `x0t node unban` lets it ask again, with a new token."),
    "admission.binding": ErrorSpec(_Denied,
        "The request was signed for another connection than the one that it came by.",
        "Somebody replays it, or stands between the node and the gateway; the node itself asks again by itself."),
    "admission.certificate": ErrorSpec(_Denied,
        "The node certificate is not of the keys that this node asked with.",
        "Do not trust the gateway that sent it; have an approver look at `x0t node show`."),
    "admission.clock": ErrorSpec(_State,
        "The clock of the node that asks is {off} {way} the gateway's; at most {limit} is allowed.",
        "Set the clock that is wrong: `timedatectl set-ntp true`, or `timedatectl set-time`. It is tried again."),
    "admission.closed": ErrorSpec(_State,
        "This node takes no enrolments.",
        "Set admission.enabled and listen.address in its settings, or make the token for gateways that do."),
    "admission.code": ErrorSpec(_Denied,
        "This gateway keeps no token for this code.",
        "It is withdrawn, used up or ended, or was typed wrongly: ask its issuer for a new one."),
    "admission.device": ErrorSpec(_Denied,
        "The token is for another device.",
        "Use it on the device that it was made for, or ask its issuer for one for this device."),
    "admission.enrolment": ErrorSpec(_Denied,
        "The node certificate is not for the enrolment by which the node is here.",
        "See `x0t node show`, and approve the node again if it is to be a member."),
    "admission.evicted": ErrorSpec(_Denied,
        "{node} was taken out of the mesh.",
        "Ask an approver for a new token, then `x0t join` with it."),
    "admission.exists": ErrorSpec(_State,
        "This node is on its way into a mesh already: {state}.",
        "See `x0t mesh enrolment`; `x0t mesh enrolment --give-up` ends it while nobody has admitted the node."),
    "admission.expired": ErrorSpec(_State,
        "The certificate of {node} has ended.",
        "Ask an approver to renew it: `x0t node renew`."),
    "admission.gateway": ErrorSpec(_Denied,
        "The token does not name {node} as a gateway that may take it.",
        "Ask one of the gateways that `x0t token inspect` lists."),
    "admission.granted": ErrorSpec(_State,
        "{node} is a member by a grant, which this does not touch.",
        "Take the grant away: `x0t role revoke`."),
    "admission.keys": ErrorSpec(_Denied,
        "{node} asked with this token before, with other keys.",
        "Ask the issuer for a new token; an approver evicts the node first if its keys were really lost."),
    "admission.mesh": ErrorSpec(_Denied,
        "The gateway and the token are not of the same mesh.",
        "Somebody else answers at that address, or the token is another mesh's: ask its issuer."),
    "admission.message": ErrorSpec(_Input,
        "A message of the enrolment is not well formed: {reason}.",
        "The peer's software is at fault or newer than ours: compare versions."),
    "admission.none": ErrorSpec(_State,
        "This node has not asked to be admitted.",
        "Begin with `x0t join TOKEN`.", 404),
    "admission.order": ErrorSpec(_Input,
        "A message {message} came where it does not belong: {stage}.",
        "The peer's software is at fault or newer than ours: compare versions."),
    "admission.peer": ErrorSpec(_Denied,
        "The request is of another node than {peer}, who sent it.",
        "Somebody replays it, or stands between the node and the gateway; the node itself asks again by itself."),
    "admission.pointer": ErrorSpec(_Denied,
        "What {node} gave for the short form is a token of another mesh, or one that does not name it.",
        "Do not use it; ask its issuer for the token itself."),
    "admission.refused": ErrorSpec(_Denied,
        "The gateway refused: {reason}.",
        "Its log says more; compare versions if it is a key that docs/reference/errors.md does not have."),
    "admission.rejected": ErrorSpec(_Denied,
        "An approver rejected {node}.",
        "Ask why; an approver can take it back with `x0t node resume`, or make a new token."),
    "admission.revoked": ErrorSpec(_Denied,
        "A revocation of which its issuer did not know takes the node certificate away.",
        "An approver who knows of it may approve the node again."),
    "admission.scope": ErrorSpec(_Denied,
        "The node has tags outside the scope of who decided, or none where the scope is not the whole mesh.",
        "Ask an approver of all its tags."),
    "admission.secret": ErrorSpec(_Denied,
        "The secret is not that of the token {token}.",
        "Copy the token again, whole, as it was shown when it was made."),
    "admission.state": ErrorSpec(_State,
        "How the node stands does not allow this.",
        "It is {state}; `x0t node show` tells what led there."),
    "admission.suspended": ErrorSpec(_State,
        "An approver suspended {node}.",
        "Ask why; an approver lets it go on with `x0t node resume`. Nothing is to be done on the node."),
    "admission.token": ErrorSpec(_Denied,
        "The request is for another token than the one that was named.",
        "Somebody mixes two requests; the node itself asks again by itself."),
    "admission.unknown": ErrorSpec(_Unavailable,
        "This gateway does not know the token {token} yet.",
        "It will when it has met the mesh; it is tried again by itself, and with the other gateways of the token."),
    "admission.withdrawn": ErrorSpec(_Denied,
        "The certificate of {node} was taken away.",
        "Ask an approver; `x0t node approve` gives it a new one without a new token."),

    # ---- archive: files of batches
    "archive.changed": ErrorSpec(_State,
        "The replica was changed while the file was written: {reason}.",
        "Start again; nothing was removed."),
    "archive.checkpoint": ErrorSpec(_State,
        "No checkpoint in force has closed the epoch {epoch}.",
        "An owner writes one with `x0t replica checkpoint`."),
    "archive.damaged": ErrorSpec(_Integrity,
        "The file is damaged: {reason}.",
        "Use another copy of it.", 422),
    "archive.earlier": ErrorSpec(_State,
        "{batches} batches follow on those in the archive of epoch {epoch}, which are not here.",
        "Import or name the earlier archives first, in order."),
    "archive.epoch": ErrorSpec(_State,
        "The epoch {epoch} was archived before.",
        "Keep the file that was written then: batches are in one archive only."),
    "archive.exists": ErrorSpec(_State,
        "The file {path} exists already.",
        "Choose another name: an archive is never overwritten."),
    "archive.form": ErrorSpec(_Input,
        "The file is no archive of this program: {reason}.",
        "Check its name; update this node if the file was written by a newer one."),
    "archive.mesh": ErrorSpec(_Denied,
        "The file belongs to another mesh: {mesh}.",
        "Choose the file of this mesh."),
    "archive.truncated": ErrorSpec(_Integrity,
        "The file ends too early, after {batches} batches.",
        "Copy it again from where it was written.", 422),
    "archive.unverified": ErrorSpec(_Integrity,
        "The archive that was written does not verify: {reason}.",
        "Nothing was removed; run `x0t replica verify`, and check the disk."),
    "archive.write": ErrorSpec(_Unavailable,
        "The file {path} cannot be written or read: {reason}.",
        "Check the directory, its permissions and the free space."),

    # ---- attach: the Yggdrasil key of a member
    "attach.proof": ErrorSpec(_Input,
        "The Yggdrasil key did not sign that it belongs to this node.",
        "The node must sign the statement with the key itself; restart its daemon to publish it again."),
    "attach.unchanged": ErrorSpec(_State,
        "The attachment of this node is so already.",
        "There is nothing to do."),

    # ---- batch: one signed batch, from us or from a peer
    "batch.author": ErrorSpec(_Denied,
        "Author {author} holds no grant that lets it write to this mesh.",
        "Ask an owner to grant it a role, or check that the node belongs to this mesh."),
    "batch.chain": ErrorSpec(_Integrity,
        "Batch {batch} does not follow the author's previous batch.",
        "The author's log is forked or damaged: compare it on two nodes with `x0t replica log`.", 422),
    "batch.channel": ErrorSpec(_Input,
        "Batch {batch} names the channel {channel}, which does not exist here.",
        "Update this node if the channel is new; otherwise correct the sender."),
    "batch.clock_ahead": ErrorSpec(_State,
        "Batch {batch} is {ahead} ahead of this node's clock.",
        "Correct the clock of the author or of this node; the batch is accepted once time has caught up."),
    "batch.clock_behind": ErrorSpec(_Input,
        "Batch {batch} is not later than the batches that it follows.",
        "The author's software is at fault: its clock must move past everything that it has seen."),
    "batch.malformed": ErrorSpec(_Input,
        "The batch is not well formed: {reason}.",
        "The sender's software is at fault or newer than ours: compare versions."),
    "batch.mesh": ErrorSpec(_Denied,
        "Batch {batch} belongs to another mesh.",
        "Check which mesh the sender was enrolled in."),
    "batch.parents": ErrorSpec(_Input,
        "Batch {batch} lists parents that are not sorted, not unique or too many.",
        "The author's software is at fault: compare versions."),
    "batch.quota": ErrorSpec(_Denied,
        "Author {author} has written all the batches that an epoch allows.",
        "An owner can write a checkpoint, which begins a new epoch."),
    "batch.seq": ErrorSpec(_Input,
        "Batch {batch} has the number {seq}, which does not follow its predecessor.",
        "The author's software is at fault, or batches before it were lost: ask for them again."),
    "batch.signature": ErrorSpec(_Integrity,
        "Batch {batch} does not carry a valid signature of its author.",
        "Do not trust the sender's copy; fetch the batch from another peer.", 422),
    "batch.size": ErrorSpec(_Input,
        "The batch is larger than allowed: {size} of at most {limit} {unit}.",
        "Split it into several batches."),

    # ---- capture: files of packets
    "capture.exists": ErrorSpec(_State,
        "The file {path} exists already.",
        "Choose another name: a capture is never written over a file."),
    "capture.interface": ErrorSpec(_Unavailable,
        "Nothing can be captured from the interface {interface}: {reason}.",
        "Check that it exists, and that x0td may open packet sockets (CAP_NET_RAW)."),
    "capture.write": ErrorSpec(_Unavailable,
        "The capture {path} cannot be written: {reason}.",
        "Check the directory, its permissions and the free space. What was written until then can be opened."),

    # ---- cbor: deterministic CBOR, RFC 8949 section 4.2.1
    "cbor.depth": ErrorSpec(_Input,
        "The value is nested deeper than {limit} levels.",
        "Flatten it."),
    "cbor.duplicate_key": ErrorSpec(_Input,
        "A map holds the same key twice (offset {offset}).",
        "The sender must use deterministic CBOR."),
    "cbor.float": ErrorSpec(_Input,
        "The value holds a floating-point number (offset {offset}).",
        "Use an integer in a smaller unit."),
    "cbor.indefinite": ErrorSpec(_Input,
        "The value uses an indefinite length (offset {offset}).",
        "The sender must use deterministic CBOR."),
    "cbor.integer": ErrorSpec(_Input,
        "The integer does not fit 64 bits and a sign.",
        "Use a byte string for larger numbers."),
    "cbor.items": ErrorSpec(_Input,
        "The value holds more than {limit} items.",
        "Split it."),
    "cbor.key_order": ErrorSpec(_Input,
        "The keys of a map are not in order (offset {offset}).",
        "The sender must use deterministic CBOR."),
    "cbor.key_type": ErrorSpec(_Input,
        "A key of a map is neither an integer nor text nor bytes.",
        "Use one of these."),
    "cbor.not_shortest": ErrorSpec(_Input,
        "A number or length is not written in its shortest form (offset {offset}).",
        "The sender must use deterministic CBOR."),
    "cbor.reserved": ErrorSpec(_Input,
        "The value uses an encoding that is reserved or not used here (offset {offset}).",
        "The sender must use deterministic CBOR without simple values other than false, true and null."),
    "cbor.size": ErrorSpec(_Input,
        "The encoded value is {size} bytes long; at most {limit} are allowed.",
        "Split it."),
    "cbor.tag": ErrorSpec(_Input,
        "The value carries the tag {tag}, which is not allowed there.",
        "The sender's software is at fault or newer than ours: compare versions."),
    "cbor.trailing": ErrorSpec(_Input,
        "{count} bytes follow the end of the value.",
        "Send exactly one value."),
    "cbor.truncated": ErrorSpec(_Input,
        "The encoded value ends too early.",
        "Send it again; part of it was lost."),
    "cbor.type": ErrorSpec(_Input,
        "A {type} cannot be encoded.",
        "Use null, booleans, integers, bytes, text, lists and maps."),
    "cbor.utf8": ErrorSpec(_Input,
        "A text is not valid UTF-8.",
        "Correct the text, or send it as bytes."),

    # ---- certificate: a node certificate, which makes a node a member
    "certificate.issuer": ErrorSpec(_Denied,
        "The node certificate {certificate} was not issued by the holder of the grant that it rests on.",
        "Ask an approver of this mesh for another one."),
    "certificate.malformed": ErrorSpec(_Input,
        "The node certificate is not well formed: {reason}.",
        "The issuer's software is at fault or newer than ours: compare versions."),
    "certificate.mesh": ErrorSpec(_Denied,
        "The node certificate {certificate} belongs to another mesh.",
        "Ask an approver of this mesh."),
    "certificate.repeated": ErrorSpec(_Denied,
        "The same node certificate was published before, in this batch's past.",
        "Sign a new one: a certificate counts from its first publication."),
    "certificate.signature": ErrorSpec(_Integrity,
        "The node certificate {certificate} does not carry a valid signature of its issuer.",
        "Do not trust it; ask the issuer for it again.", 422),
    "certificate.widens": ErrorSpec(_Denied,
        "The node certificate needs more than its issuer holds: {what}.",
        "Give fewer tags or a shorter time, or ask an approver who holds more."),

    # ---- change: the strict decoder of Automerge changes
    "change.actor": ErrorSpec(_Denied,
        "The change was not made by the author of its batch.",
        "An author may carry only its own changes."),
    "change.ancestry": ErrorSpec(_Input,
        "The change refers to operations outside its own history.",
        "The author's software is at fault: compare versions."),
    "change.bounds": ErrorSpec(_Input,
        "The change exceeds a limit: {reason}.",
        "Make several smaller changes."),
    "change.canonical": ErrorSpec(_Input,
        "The change is not in canonical form: {reason}.",
        "The author's software is at fault: compare versions."),
    "change.checksum": ErrorSpec(_Integrity,
        "The checksum of the change does not match.",
        "Fetch its batch from another peer.", 422),
    "change.schema": ErrorSpec(_Input,
        "The change does something that the document does not allow: {reason}.",
        "Set or delete plain values in the document's own map only."),
    "change.sequence": ErrorSpec(_Input,
        "The change does not follow the author's previous change: {reason}.",
        "The author's software is at fault, or changes before it are missing."),

    # ---- checkpoint: closing an epoch
    "checkpoint.digest": ErrorSpec(_Integrity,
        "The checkpoint's digest is not that of the batches in its past.",
        "The owner's replica is damaged: run `x0t replica verify` there, then write another checkpoint.", 422),
    "checkpoint.empty": ErrorSpec(_State,
        "There is nothing as old as that to close.",
        "Choose a smaller age."),
    "checkpoint.horizon": ErrorSpec(_Input,
        "The checkpoint's horizon does not lie before the checkpoint itself.",
        "The author's software is at fault: compare versions."),

    # ---- config: the daemon's TOML file
    "config.data_dir": ErrorSpec(_Input,
        "The data directory {path} cannot be used: {reason}.",
        "It holds private keys: it must be a directory of the daemon's user with mode 0700."),
    "config.file": ErrorSpec(_Input,
        "The configuration {path} cannot be read: {reason}.",
        "Check the path, the permissions and the TOML syntax."),
    "config.unknown_key": ErrorSpec(_Input,
        "{path}: there is no setting {name}; {nearest}.",
        "Correct the name; every setting is in docs/reference/settings.md."),
    "config.value": ErrorSpec(_Input,
        "{path}: the setting {name} is not valid: {reason}.",
        "Correct the value; every setting is in docs/reference/settings.md."),

    # ---- control: the unix socket between x0t and x0td
    "control.body_size": ErrorSpec(_Input,
        "The request is larger than {limit} bytes.",
        "Split it into several requests.", 413),
    "control.confirm": ErrorSpec(_Input,
        "There is no terminal to ask on: {question}.",
        "Add --yes to go on without being asked."),
    "control.daemon_down": ErrorSpec(_Unavailable,
        "The daemon does not answer on {path}.",
        "Start it with `x0td`, or name its socket with --socket."),
    "control.editor": ErrorSpec(_State,
        "The editor {editor} did not finish: {reason}.",
        "Set $VISUAL or $EDITOR to an editor. The text is in {path}."),
    "control.failed": ErrorSpec(_Unavailable,
        "The daemon failed at this request for a reason of its own.",
        "Its log has the cause under the request {request}; please report it.", 500),
    "control.file": ErrorSpec(_State,
        "The file {path} cannot be used: {reason}.",
        "Check the path, the space on its disk and your permissions."),
    "control.interrupted": ErrorSpec(_Unavailable,
        "The daemon ended the connection before its answer was complete.",
        "It may be stopping: look at its log, then ask again."),
    "control.peer_credentials": ErrorSpec(_Denied,
        "The user {uid} may not control this daemon.",
        "Run the command as the daemon's user or as root."),
    "control.request": ErrorSpec(_Input,
        "The request is not valid: {reason}.",
        "Correct it; the command and the daemon may also differ in version."),
    "control.route": ErrorSpec(_Input,
        "The daemon has no {method} {path}.",
        "The command and the daemon differ in version: update the older.", 404),
    "control.socket": ErrorSpec(_State,
        "The control socket {path} cannot be used: {reason}.",
        "Stop the daemon that answers there, or choose another path with `control.socket`."),
    "control.timeout": ErrorSpec(_Unavailable,
        "The request took longer than {seconds} s.",
        "It may still complete: look with `x0t replica status` before you repeat it."),

    # ---- cose: COSE_Sign1, RFC 9052
    "cose.payload": ErrorSpec(_Input,
        "The signed message carries no payload of bytes.",
        "The payload must be inside the message."),
    "cose.protected": ErrorSpec(_Input,
        "The protected header is not exactly the algorithm ML-DSA-65 (-49).",
        "The sender's software is at fault or newer than ours: compare versions."),
    "cose.shape": ErrorSpec(_Input,
        "The signed message is not an array of four.",
        "The sender's software is at fault or newer than ours: compare versions."),
    "cose.signature": ErrorSpec(_Input,
        "The signature is {size} bytes long; ML-DSA-65 has {expected}.",
        "The sender's software is at fault or newer than ours: compare versions."),
    "cose.tag": ErrorSpec(_Input,
        "The message is not a COSE_Sign1 (tag 18).",
        "The sender's software is at fault or newer than ours: compare versions."),
    "cose.unprotected": ErrorSpec(_Input,
        "The unprotected header is not empty.",
        "Nothing outside the signature is accepted: the sender must leave it empty."),

    # ---- daemon: the process as a whole
    "daemon.fault": ErrorSpec(_Unavailable,
        "Something failed in this daemon that nobody foresaw: {what}.",
        "It goes on without it; its log has the cause: please report it.", 500),
    "daemon.job_failed": ErrorSpec(_Unavailable,
        "The job {job} failed too often: {reason}.",
        "The daemon ended so that the service manager starts it again; its log has the cause."),
    "daemon.listen": ErrorSpec(_State,
        "The daemon cannot listen on {address}: {reason}.",
        "Choose another address or port with `listen`, or stop what uses it."),

    # ---- document: Automerge documents folded from changes
    "document.cache": ErrorSpec(_Integrity,
        "The saved copy of the document {document} cannot be used: {reason}.",
        "Nothing is lost: the document is rebuilt from the log."),
    "document.changed": ErrorSpec(_State,
        "The document {document} was changed since it was read.",
        "Read it again and repeat the change."),
    "document.panic": ErrorSpec(_Integrity,
        "Automerge failed inside the document {document}.",
        "The document is rebuilt from the log; report the change that caused it: {change}."),
    "document.rebuild": ErrorSpec(_Integrity,
        "The document {document} could not be rebuilt from the log.",
        "Run `x0t replica verify`, then restore the log from another node with `x0t replica import`."),
    "document.schema": ErrorSpec(_Input,
        "The document {document} has no place for {name}: {reason}.",
        "Check the name and the type of the value."),
    "document.unchanged": ErrorSpec(_State,
        "The document {document} is so already.",
        "There is nothing to do."),
    "document.unknown": ErrorSpec(_Input,
        "There is no document {document}.",
        "Update this node if the document is new; otherwise correct the name."),

    # ---- entry: the parts of a batch
    "entry.malformed": ErrorSpec(_Input,
        "The entry of kind {kind} is not well formed: {reason}.",
        "The author's software is at fault or newer than ours: compare versions."),

    # ---- firewall: the table of the mesh in the kernel
    "firewall.closed": ErrorSpec(_State,
        "The firewall of {interface} is closed.",
        "Start the daemon again; the table in the kernel still holds what was verified last."),
    "firewall.conversations": ErrorSpec(_Unavailable,
        "Conversations that nothing allows any more could not be ended: {reason}.",
        "None of their packets passes, and it is tried again by itself."),
    "firewall.held": ErrorSpec(_State,
        "The name {name} is in use on this network already: by {holder}.",
        "Stop it first: on a machine a mesh has one daemon, and each daemon an interface of its own."),
    "firewall.mismatch": ErrorSpec(_Integrity,
        "The kernel does not hold what was written to table {table}: {what} should be {wanted} and is {found}.",
        "The filter before it was written again; `x0t net doctor` shows whether the kernel holds it."),
    "firewall.refused": ErrorSpec(_Unavailable,
        "The kernel did not take the change of table {table}: {reason}.",
        "What was in force before stays in force, and the change is tried again."),
    "firewall.unavailable": ErrorSpec(_Unavailable,
        "The firewall of the kernel cannot be reached: {reason}.",
        "x0td needs CAP_NET_ADMIN, and a kernel with nf_tables, conntrack and nfnetlink_log."),
    "firewall.unrestored": ErrorSpec(_Integrity,
        "The kernel does not hold what was written to table {table}: {what} should be {wanted} and is {found}. "
        "The filter before it could not be brought back either: {state}.",
        "It is tried again by itself, from a look at the whole table; see what else writes to it."),

    # ---- grant: roles bound to keys
    "grant.depth": ErrorSpec(_Denied,
        "The chain of grants is longer than {limit}.",
        "Ask somebody nearer to the authority for the grant."),
    "grant.issuer": ErrorSpec(_Denied,
        "The grant {grant} was not issued by the holder of its parent.",
        "Ask the mesh authority or a holder who may delegate."),
    "grant.malformed": ErrorSpec(_Input,
        "The grant is not well formed: {reason}.",
        "The issuer's software is at fault or newer than ours: compare versions."),
    "grant.mesh": ErrorSpec(_Denied,
        "The grant {grant} belongs to another mesh.",
        "Ask the authority of this mesh."),
    "grant.repeated": ErrorSpec(_Denied,
        "The same grant was published before, in this batch's past.",
        "Sign a new one: a grant counts from its first publication."),
    "grant.role": ErrorSpec(_Denied,
        "This needs the role {role}.",
        "Ask an owner for it: `x0t role grant`."),
    "grant.signature": ErrorSpec(_Integrity,
        "The grant {grant} does not carry a valid signature of its issuer.",
        "Do not trust it; ask the issuer for it again.", 422),
    "grant.widens": ErrorSpec(_Denied,
        "The grant gives more than its issuer holds: {what}.",
        "Grant fewer roles, a smaller scope, fewer levels or a shorter time."),

    # ---- id: identifiers and their text forms
    "id.raw": ErrorSpec(_Input,
        "A {kind} identifier has 32 bytes, not {length}.",
        "Give the whole identifier."),
    "id.text": ErrorSpec(_Input,
        "{text} is not an identifier: {reason}.",
        "Copy it again, whole and with its prefix."),

    # ---- key: key files
    "key.algorithm": ErrorSpec(_Input,
        "The key in {path} is not of the algorithm that is needed there.",
        "Create one with this program, or convert it to PKCS #8 in seed form."),
    "key.exists": ErrorSpec(_State,
        "There is a key in {path} already.",
        "Move it away first if you really want another: the node's identity is its key."),
    "key.file": ErrorSpec(_State,
        "The key file {path} cannot be used: {reason}.",
        "Check the path and the owner; restore the file if it is lost."),
    "key.format": ErrorSpec(_Input,
        "This is not a key: {reason}.",
        "A public key is one line: `ml-dsa-65` and its base64."),
    "key.length": ErrorSpec(_Input,
        "The key is {length} bytes long; it must have {expected}.",
        "Give the whole key."),
    "key.permissions": ErrorSpec(_Integrity,
        "Others can read or own the private key {path}.",
        "Make it yours alone (chmod 600, chown), and replace the key if somebody may have copied it."),
    "key.unknown": ErrorSpec(_Input,
        "There is no such file, and no node id: {text}.",
        "Name a public key file, a node by its id, or by the name that an admin gave it."),
    "key.wiped": ErrorSpec(_State,
        "The private key was wiped from memory.",
        "Load it again."),

    # ---- mesh: the descriptor of a mesh
    "mesh.descriptor": ErrorSpec(_Input,
        "This is not a mesh descriptor: {reason}.",
        "Export it again with `x0t mesh show --export FILE` on a node of the mesh."),
    "mesh.descriptor_signature": ErrorSpec(_Integrity,
        "The mesh descriptor is not signed by the authority that it names.",
        "Do not join with it; fetch it again from the founder.", 422),
    "mesh.peer": ErrorSpec(_Input,
        "{text} is not the address of a peer.",
        "Write host:port, or nodeid@host:port to accept one node only."),

    # ---- network: the mesh network of this node
    "network.off": ErrorSpec(_State,
        "The mesh network of this node is off.",
        "Set `network.enabled = true` in the settings file of x0td and start it again."),
    "network.probe": ErrorSpec(_State,
        "{service} did not reach {target}: {died_at}.",
        "What was found stands above; `x0t net doctor` shows how this node stands."),
    "network.service": ErrorSpec(_Input,
        "{text} is not one service.",
        "Write tcp/443, udp/5000, sctp/9 or icmpv6: one protocol, and one port where it has ports."),
    "network.unhealthy": ErrorSpec(_State,
        "{count} checks failed: {codes}.",
        "Run the command in the column FIX; `x0t net doctor` then shows whether it helped."),
    "network.unknown": ErrorSpec(_Input,
        "No node and no host of the mesh is called {text}.",
        "{nearest}Name a node as `x0t node list` shows it, by its id, or by an address of the mesh."),

    # ---- policy: who may talk to whom
    "policy.bounds": ErrorSpec(_Input,
        "The policy has {count} {what}; at most {limit} may be.",
        "{advice}. The policy in force is as it was.", 422),
    "policy.changed": ErrorSpec(_State,
        "The policy was changed meanwhile: it is at revision {revision}.",
        "Look at it with `x0t policy show`, put your change on top, and apply again. Nothing was written."),
    "policy.document": ErrorSpec(_Integrity,
        "{key} of the policy cannot be read: {reason}.",
        "It may be written by newer software; the last revision that could be read stays in force.", 422),
    "policy.no_confirmation": ErrorSpec(_State,
        "No change of policy waits to be confirmed.",
        "It was confirmed or undone before; `x0t policy history` shows what is in force."),
    "policy.no_revision": ErrorSpec(_State,
        "The policy has no revision {revision}.",
        "`x0t policy history` shows those that there are."),
    "policy.not_member": ErrorSpec(_State,
        "Node {node} is not a member that may be trusted, so there is nothing that it may enforce.",
        "Check its certificate and whether it was evicted: `x0t node list`."),
    "policy.overtaken": ErrorSpec(_State,
        "The edit was written, and has no effect any more: this node's right to make it was taken meanwhile.",
        "`x0t replica no-effect` has the reason."),
    "policy.size": ErrorSpec(_Input,
        "A policy has at most {limit} bytes as text.",
        "Put addresses and nodes under tags and groups: one rule can speak of many."),
    "policy.tests": ErrorSpec(_Input,
        "{count} tests of the policy fail. The first: {first}.",
        "Change the rules, or the test if it is the test that is wrong. The policy in force is as it was."),
    "policy.text": ErrorSpec(_Input,
        "The policy cannot be read: {problem}.",
        "The place is line:column. docs/policy.md has the form and an example; {count} problems were found."),
    "policy.too_large": ErrorSpec(_State,
        "The policy needs {count} {what} on this node; {limit} are allowed. What was in force stays.",
        "Put nodes that may do the same under one tag, and ports under ranges: fewer classes make fewer entries."),
    "policy.unchanged": ErrorSpec(_State,
        "The policy says all this already.",
        "Nothing was written."),
    "policy.waiting": ErrorSpec(_State,
        "A change of policy waits to be confirmed.",
        "Run `x0t policy confirm`, or wait until it is undone; then apply again."),

    # ---- pqc: the provider of post-quantum algorithms
    "pqc.ciphertext": ErrorSpec(_Input,
        "The ciphertext is not one of ML-KEM-768.",
        "The sender's software is at fault: compare versions."),
    "pqc.context": ErrorSpec(_Input,
        "The signing context is longer than 255 bytes.",
        "Use one of the domain labels."),
    "pqc.key": ErrorSpec(_Input,
        "The {algorithm} key is not valid.",
        "Give the whole key of the right algorithm."),
    "pqc.operation": ErrorSpec(_Unavailable,
        "The provider {provider} failed at {operation}.",
        "Try the other provider in the configuration; report the failure."),
    "pqc.provider": ErrorSpec(_Unavailable,
        "The provider {provider} is not usable here: {reason}.",
        "Install its library, or choose `auto` in the configuration."),
    "pqc.self_test": ErrorSpec(_Integrity,
        "The provider {provider} gives wrong results for {algorithm}.",
        "Do not use it: choose the other provider and reinstall this one."),

    # ---- probe: finding out where something dies
    "probe.protocol": ErrorSpec(_Input,
        "A probe cannot be made of the protocol {protocol}.",
        "Name a service such as tcp/502, udp/53, sctp/2905 or icmpv6."),

    # ---- replica: the log and the read model of this node
    "replica.ambiguous": ErrorSpec(_Input,
        "More than one is meant by {text}.",
        "Give more of the identifier, or all of it."),
    "replica.closing": ErrorSpec(_Unavailable,
        "The replica is shutting down.",
        "Try again when the daemon runs."),
    "replica.corrupt": ErrorSpec(_Integrity,
        "The stored {what} is damaged: {reason}.",
        "Run `x0t replica verify`; rebuild the view, or import the log from another node."),
    "replica.disk_full": ErrorSpec(_Unavailable,
        "The disk is full: nothing can be written.",
        "Free some space; nothing acknowledged was lost."),
    "replica.frozen": ErrorSpec(_Denied,
        "Author {author} is frozen: it wrote two different batches with the number {seq}.",
        "If a backup was restored or a disk cloned, keep one copy; then an owner decides with a thaw."),
    "replica.locked": ErrorSpec(_State,
        "Another daemon, process {pid}, uses the data directory {path}.",
        "Stop it first, or choose another directory."),
    "replica.mesh_exists": ErrorSpec(_State,
        "This node is in a mesh already: {mesh}.",
        "Use another data directory for another mesh."),
    "replica.no_effect": ErrorSpec(_State,
        "The batch {batch} was written and has no effect here: {reason}.",
        "It is kept with its reason: see `x0t replica no-effect`."),
    "replica.no_mesh": ErrorSpec(_State,
        "This node is in no mesh yet.",
        "Create one with `x0t mesh create`, or follow one with `x0t mesh join`."),
    "replica.not_found": ErrorSpec(_Input,
        "There is no {what} here.",
        "Check the identifier; the replica may not have received it yet.", 404),
    "replica.parked": ErrorSpec(_State,
        "Batch {batch} waits for batches that have not arrived.",
        "Store what it follows first."),
    "replica.queue_full": ErrorSpec(_Unavailable,
        "Too many writers wait for the disk.",
        "Try again in a moment."),
    "replica.read_only": ErrorSpec(_State,
        "The replica is read-only: {reason}.",
        "Correct the cause, then start the daemon again."),

    # ---- request: what a node signs that asks to be admitted
    "request.malformed": ErrorSpec(_Input,
        "The request is not well formed: {reason}.",
        "The asker's software is at fault or newer than ours: compare versions."),
    "request.proof": ErrorSpec(_Denied,
        "The mesh key of the request did not sign that it belongs to {node}.",
        "The node must sign with the key itself; restart its daemon and ask again."),
    "request.signature": ErrorSpec(_Integrity,
        "The request does not carry a valid signature of {node}.",
        "Do not trust it; the node asks again by itself.", 422),

    # ---- revoke: taking roles away
    "revoke.cut": ErrorSpec(_Input,
        "The revocation's cut is not a batch of the node that it revokes.",
        "The author's software is at fault: compare versions."),
    "revoke.repeated": ErrorSpec(_Denied,
        "Its author had revoked the same key {limit} times before.",
        "Let another owner or admin revoke it."),

    # ---- sync: a session with a peer
    "sync.archived": ErrorSpec(_State,
        "The peer asks for batches that were archived here.",
        "Import the archive on the peer, or let it sync with a node that still has them."),
    "sync.channel": ErrorSpec(_Input,
        "The peer speaks about the channel {channel}.",
        "The peer's software is at fault: compare versions."),
    "sync.claimed_not_sent": ErrorSpec(_Integrity,
        "The peer claimed batches that it did not send.",
        "It is left alone for a while; check its log with `x0t replica verify` there.", 422),
    "sync.duplicates": ErrorSpec(_Denied,
        "The peer sends again and again what this node has.",
        "It is left alone for a while; compare versions."),
    "sync.flood": ErrorSpec(_Denied,
        "The peer sends more small frames than the work needs.",
        "It is left alone for a while; compare versions."),
    "sync.frame_size": ErrorSpec(_Input,
        "The peer sent a frame of {size} bytes; at most {limit} are allowed.",
        "The peer's software is at fault: compare versions."),
    "sync.garbage": ErrorSpec(_Input,
        "The peer sent something that is no message: {reason}.",
        "The peer's software is at fault: compare versions."),
    "sync.invalid_batch": ErrorSpec(_Integrity,
        "The peer sent a batch that no honest node passes on: {reason}.",
        "It is left alone for a while; check its log with `x0t replica verify` there.", 422),
    "sync.mesh": ErrorSpec(_Denied,
        "The peer belongs to another mesh.",
        "Correct the peer's address in the configuration."),
    "sync.protocol_version": ErrorSpec(_Input,
        "The peer speaks version {version} of the protocol.",
        "Update the older of the two nodes."),
    "sync.stall": ErrorSpec(_Unavailable,
        "The peer made no progress for {seconds} s.",
        "It is tried again later; check the link."),
    "sync.unsolicited": ErrorSpec(_Denied,
        "The peer sent what nobody asked for.",
        "It is left alone for a while; compare versions."),
    "sync.window": ErrorSpec(_Denied,
        "The peer sent more than {limit} bytes without waiting.",
        "It is left alone for a while; compare versions."),
    "sync.window_small": ErrorSpec(_Input,
        "The peer takes {window} bytes at a time, which is less than one batch.",
        "Raise its limit sync_window_bytes to at least {least}."),

    # ---- subnet: prefixes behind a node
    "subnet.form": ErrorSpec(_Input,
        "{prefix} cannot be behind a node: {reason}.",
        "Name an IPv6 prefix in canonical form, such as fd12:3456::/64, or a part of the node's own /64 of the mesh."),
    "subnet.limit": ErrorSpec(_Input,
        "A node has at most {limit} subnets behind it.",
        "Put subnets together under shorter prefixes, or remove some."),
    "subnet.unchanged": ErrorSpec(_State,
        "The subnets of {node} are so already.",
        "There is nothing to do."),

    # ---- stream: messages between two nodes, over TLS
    "stream.closed_by_peer": ErrorSpec(_Denied,
        "The peer ended the stream: {reason}.",
        "The reason is the peer's; its log says more."),
    "stream.cut": ErrorSpec(_Unavailable,
        "The connection to the peer was cut: {reason}.",
        "It is tried again later; check the link."),
    "stream.flood": ErrorSpec(_Denied,
        "The peer sent more frames than a guest may.",
        "Ask its operator to update x0td; a correct node sends one now and then."),
    "stream.message_kind": ErrorSpec(_Input,
        "The peer sent text where only bytes are allowed.",
        "The peer's software is at fault: compare versions."),
    "stream.message_size": ErrorSpec(_Input,
        "A message on the stream is larger than {limit} bytes.",
        "Split it into several messages; if the peer sent it, compare versions.", 413),

    # ---- tags: tags of nodes
    "tags.certificate": ErrorSpec(_State,
        "The tags of {node} come with its certificate, so one of its own must stay.",
        "Give it another tag first, or certify it with other tags."),
    "tags.form": ErrorSpec(_Input,
        "{tag} cannot be a tag.",
        "A tag is 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end: line-1."),
    "tags.limit": ErrorSpec(_Input,
        "A node has at most {limit} tags.",
        "Remove tags that are not used any more."),
    "tags.name": ErrorSpec(_Input,
        "{name} cannot be the name of a node.",
        "A name is 1 to 64 characters that can be printed."),
    "tags.unchanged": ErrorSpec(_State,
        "The tags of {node} are so already.",
        "There is nothing to do."),

    # ---- tailscale: policy files of Tailscale and headscale
    "tailscale.mapping": ErrorSpec(_Input,
        "Line {line}, column {column} of the mapping file: {name} {why}.",
        "{advice}"),
    "tailscale.not_carried": ErrorSpec(_Input,
        "{count} parts of {path} have no equal here, so nothing was translated.",
        "Each is named above with what to do; a mapping file (--mapping) settles users, groups and hosts."),
    "tailscale.refused": ErrorSpec(_Input,
        "Line {line}, column {column}: {name} {why}.{more}",
        "{advice}"),

    # ---- thaw: an owner's decision on a forked log
    "thaw.keep": ErrorSpec(_Input,
        "The batch to keep is not one of the frozen author's.",
        "Choose one of the two that `x0t replica conflicts` shows."),
    "thaw.self": ErrorSpec(_Denied,
        "Nobody decides on its own forked log.",
        "Ask another owner."),

    # ---- tls: the channel between nodes
    "tls.busy": ErrorSpec(_Unavailable,
        "This node has its {limit} connections in use.",
        "Try again later."),
    "tls.busy_peer": ErrorSpec(_Unavailable,
        "The peer {peer} has its {limit} connections in use.",
        "Close one of them, or try again later."),
    "tls.certificate": ErrorSpec(_Denied,
        "The peer's certificate is not acceptable: {reason}.",
        "The peer needs an ML-DSA-65 certificate made from its node key."),
    "tls.certificate_missing": ErrorSpec(_Denied,
        "The peer showed no certificate.",
        "Only nodes can connect here, each with a certificate made from its node key."),
    "tls.group": ErrorSpec(_Denied,
        "The peer does not agree on X25519MLKEM768: {reason}.",
        "Update the peer: only the hybrid key agreement is accepted."),
    "tls.guest_again": ErrorSpec(_Unavailable,
        "A guest came again with the same key, so its older connection was closed.",
        "Nothing is to be done."),
    "tls.guest_slow": ErrorSpec(_Unavailable,
        "A guest showed no token that stands in its time.",
        "Try again; x0td tries again by itself."),
    "tls.guests": ErrorSpec(_Unavailable,
        "A guest had to make room for a newer one.",
        "Try again; what was agreed so far is kept."),
    "tls.half_open": ErrorSpec(_Unavailable,
        "More than {limit} handshakes were under way, and this one made room.",
        "It is tried again later; somebody may be flooding the port."),
    "tls.handshake": ErrorSpec(_Unavailable,
        "The handshake failed: {reason}.",
        "Check that the address and the port are those of a node; compare versions."),
    "tls.handshake_timeout": ErrorSpec(_Unavailable,
        "The handshake took longer than {seconds} s.",
        "It is tried again later; check the link."),
    "tls.peer_busy": ErrorSpec(_Unavailable,
        "The peer has no room for this connection: {reason}.",
        "It is tried again later."),
    "tls.peer_expired": ErrorSpec(_Denied,
        "The peer's certificate ended at {end}.",
        "Check the clocks of both nodes."),
    "tls.peer_key": ErrorSpec(_Denied,
        "The peer has another key than expected: it is {peer}.",
        "Check its address; if the node was replaced, correct the key in the configuration."),
    "tls.peer_not_yet": ErrorSpec(_Denied,
        "The peer's certificate begins only at {start}.",
        "Check the clocks of both nodes."),
    "tls.peer_unknown": ErrorSpec(_Denied,
        "The peer {peer} is not a member of this mesh.",
        "Grant it a role, or wait until this node has received the grant."),
    "tls.plain": ErrorSpec(_Denied,
        "The peer did not begin a TLS handshake.",
        "Check the address and the port."),
    "tls.refused": ErrorSpec(_Denied,
        "The peer refused the connection: {reason}.",
        "The reason is the peer's; its log says more."),
    "tls.resumed": ErrorSpec(_Denied,
        "The peer resumed an earlier session instead of proving its key.",
        "Update the peer: every connection needs a full handshake."),
    "tls.unreachable": ErrorSpec(_Unavailable,
        "No connection to {address}: {reason}.",
        "It is tried again later; check the address and the link."),
    "tls.version": ErrorSpec(_Denied,
        "The peer offered {version}; only TLS 1.3 is accepted.",
        "Update the peer."),

    # ---- token: what admits nodes
    "token.device": ErrorSpec(_Input,
        "This names no device: {text}.",
        "Write key:, ek: or serial: and the 64 hex digits of a SHA-256; `x0t token create --help` has shorter ways."),
    "token.early": ErrorSpec(_State,
        "The token counts from {start}, and it was judged at {now}.",
        "Try again then. If {now} was not the time, set the clock of the node that judged: `timedatectl set-ntp true`, "
        "or `timedatectl set-time`."),
    "token.expired": ErrorSpec(_State,
        "The token ended at {end}, and it was judged at {now}.",
        "Ask its issuer for a new one. If {now} was not the time, set the clock of the node that judged: "
        "`timedatectl set-ntp true`, or `timedatectl set-time`."),
    "token.gateway": ErrorSpec(_Input,
        "The mesh does not know where {node} is reached.",
        "Set node.endpoints in its settings, or name it as NODEID@HOST:PORT."),
    "token.issuer": ErrorSpec(_Denied,
        "The token {token} was not made by the holder of the grant that it rests on.",
        "Ask an approver of this mesh for a new one."),
    "token.malformed": ErrorSpec(_Input,
        "The token is not well formed: {reason}.",
        "The issuer's software is at fault or newer than ours: compare versions."),
    "token.mesh": ErrorSpec(_Denied,
        "The token {token} belongs to another mesh.",
        "Ask an approver of this mesh for one."),
    "token.retired": ErrorSpec(_Denied,
        "An approver has ended the token.",
        "Ask for a new one; or an approver lets the node in all the same: `x0t node resume`."),
    "token.revoked": ErrorSpec(_Denied,
        "The issuer of the token has lost the right to invite.",
        "Ask another approver for a new one; or an approver lets the node in all the same: `x0t node resume`."),
    "token.signature": ErrorSpec(_Integrity,
        "The token {token} does not carry a valid signature of its issuer.",
        "Do not trust it, and ask its issuer for a new one.", 422),
    "token.spent": ErrorSpec(_Denied,
        "The token has no use left: as many nodes as it has uses came before.",
        "Ask for a new one; or an approver lets the node in all the same: `x0t node resume`."),
    "token.text": ErrorSpec(_Input,
        "This is no token: {reason}.",
        "Copy it again, whole. A token begins with x0t1. and its short form with x0tj1. as the one who made it saw."),
    "token.void": ErrorSpec(_Denied,
        "The mesh does not hold the token, or its publication has lost its effect.",
        "Ask an approver of this mesh for a new one."),
    "token.widens": ErrorSpec(_Denied,
        "The token needs more than its issuer holds: {what}.",
        "Give fewer tags or a shorter time, or ask an approver who holds more."),

    # ---- units: sizes and durations
    "units.text": ErrorSpec(_Input,
        "{text} is not a {what}.",
        "Write a whole number and a unit, such as {example}."),

    # ---- yggdrasil: the daemon that carries the mesh
    "yggdrasil.answer": ErrorSpec(_Unavailable,
        "The Yggdrasil daemon answered {request} in an unknown form: {reason}.",
        "Install Yggdrasil 0.5.12 or a newer 0.5."),
    "yggdrasil.inbound": ErrorSpec(_State,
        "The link from {remote} was opened by the other end, and the daemon cannot end it alone.",
        "Restart the daemon without that key among those allowed."),
    "yggdrasil.interface": ErrorSpec(_Unavailable,
        "The mesh interface {interface} cannot be set up: {reason}.",
        "Check that /dev/net/tun exists and that this program may change the network (root, or CAP_NET_ADMIN)."),
    "yggdrasil.key": ErrorSpec(_Input,
        "{path} holds no unencrypted Ed25519 key.",
        "Restore the file; or move it away, and a new key with a new address is made."),
    "yggdrasil.program": ErrorSpec(_Unavailable,
        "Yggdrasil cannot be started: {reason}.",
        "Install Yggdrasil 0.5.12 or newer, or name the program in `network.program`."),
    "yggdrasil.refused": ErrorSpec(_State,
        "The Yggdrasil daemon refused {request}: {reason}.",
        "The reason is the daemon's own; its log lies beside its socket."),
    "yggdrasil.routes": ErrorSpec(_Unavailable,
        "The kernel does not hold the routes of {interface} that were set: {reason}.",
        "They are set again; another program may be changing the routes of this interface."),
    "yggdrasil.stranger": ErrorSpec(_Integrity,
        "The Yggdrasil daemon is not the one expected: {reason}.",
        "It was ended; look for another program that uses the same interface or socket."),
    "yggdrasil.unavailable": ErrorSpec(_Unavailable,
        "The Yggdrasil daemon does not answer {request}: {reason}.",
        "It is tried again; `x0t net doctor` shows how the daemon stands."),
    "yggdrasil.user": ErrorSpec(_Input,
        "There is no user {user} for Yggdrasil.",
        "Create it, or leave `network.user` empty."),

    # ---- witness: a question about a probe
    "witness.question": ErrorSpec(_Input,
        "The question about a probe is refused: {reason}.",
        "A member may ask about flows between itself and the node that it asks."),
}
# fmt: on
