"""The demonstration: three daemons on loopback with real PQ TLS write while they are cut apart, and meet again.

Everything it shows is asked from the daemons over their control sockets; it holds no state of its own. Each claim is a
check with a name, and the exit code is 0 only if all of them held.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.core.records import Batch, Conflict, FileAsk, Grant, Imported, Node, NoEffect
from appliance.lab.rig import Machine, RigError, machines, refusal, wait_equal
from appliance.transport.address import Address
from appliance.transport.certificates import Credentials
from appliance.transport.dialler import Dialler
from appliance.trust.keys import create_key, write_public_key

NAMES = ("gateway", "press", "robot")


class Check(msgspec.Struct, frozen=True):
    """A claim and whether it held."""

    claim: str
    held: bool


class Step(msgspec.Struct, frozen=True):
    """A part of the demonstration and how long it took."""

    title: str
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """What the demonstration showed."""

    held: bool
    seconds: float
    digest: str
    batches: int
    checks: tuple[Check, ...]
    steps: tuple[Step, ...]
    conflicts: tuple[Conflict, ...]
    no_effect: tuple[NoEffect, ...]
    refused_peers: dict[str, int]
    rss_bytes: dict[str, int]


class Demo:
    """One run. `say` writes a line for people."""

    def __init__(self, group: Sequence[Machine], *, quiet: bool) -> None:
        self.gateway, self.press, self.robot = group
        self.group = list(group)
        self.checks: list[Check] = []
        self.steps: list[Step] = []
        self._began_s = time.monotonic()
        self._step_s = self._began_s
        self._out = sys.stderr if quiet else sys.stdout

    def say(self, text: str = "") -> None:
        """A line of the story."""
        self._out.write(text + "\n")
        self._out.flush()

    def step(self, title: str) -> None:
        """Begin a part of the story."""
        self._step_s = time.monotonic()
        self.say(f"\n[{self._step_s - self._began_s:5.1f} s] {title}")
        self.steps.append(Step(title, 0.0))

    def end_step(self, text: str) -> None:
        """Say how long the part took."""
        took_s = time.monotonic() - self._step_s
        self.steps[-1] = Step(self.steps[-1].title, round(took_s, 3))
        self.say(f"          {text} ({took_s:.2f} s)")

    def check(self, claim: str, held: bool) -> None:  # noqa: FBT001
        """A claim that must hold."""
        self.checks.append(Check(claim, held))
        self.say(f"          {'ok' if held else 'FAILED':>6}: {claim}")

    # -- the story

    def start(self) -> None:
        """Three processes; one founds the mesh, the others join it."""
        self.step("Starting three daemons on 127.0.0.1, each with its own key, log and port")
        for machine in self.group:
            took_s = machine.start()
            self.say(
                f"          {machine.name:<8} port {machine.port:<6} {machine.key().node}  ready in {took_s:.2f} s"
            )
        self.end_step("all three answer")
        self.step("gateway founds the mesh; press and robot are granted roles by key, and join with the descriptor")
        self.gateway.x0t("mesh", "create", "demo")
        descriptor = self.gateway.directory / "mesh.x0t"
        self.gateway.x0t("mesh", "show", "--export", str(descriptor))
        for machine, delegate in ((self.press, "1"), (self.robot, "0")):
            key = machine.directory / "node.key"
            machine.x0t("key", "show", "--export", str(key))
            self.gateway.x0t("role", "grant", "--key", str(key), "admin", "operator", "--delegate", delegate)
            machine.x0t("mesh", "join", str(descriptor), "--peer", self.gateway.address)
        self.end_step("granted and joined")

    def converge(self) -> str:
        """Wait until all three show one digest over TLS links."""
        self.step("They find each other over TLS 1.3 with X25519MLKEM768 and ML-DSA-65 on both sides")
        self.gateway.x0t("tag", "set", self.id(self.press), "hall-2", "spare")
        for machine in self.group:
            machine.wait(lambda seen: seen.links_up == len(self.group) - 1)
        digest = wait_equal(self.group)
        self.end_step(f"one digest {digest[:32]}...")
        self.check("three replicas show one digest", len({m.status().digest for m in self.group}) == 1)
        return digest

    def cut(self) -> None:
        """Each daemon closes its links and refuses new ones."""
        self.step("Cutting all three apart")
        for machine in self.group:
            machine.x0t("link", "cut")
        self.end_step("no links")
        self.check("no daemon has a link", all(m.status().links_up == 0 for m in self.group))

    def write_apart(self) -> None:
        """What three people do who cannot see each other."""
        self.step("Each of them writes on its own island")
        gateway, press, robot = self.gateway, self.press, self.robot
        node = self.id(press)
        gateway.x0t("role", "revoke", self.id(robot), "admin", "--reason", "robot was sold", "--yes")
        gateway.x0t("tag", "set", node, "camera", "--remove", "spare")
        gateway.x0t("node", "name", node, "press, by the gateway")
        self.say("          gateway  revokes robot's role admin; tags press camera, takes its tag spare; names press")
        scanner = create_key(press.directory / "scanner.pem")
        write_public_key(press.directory / "scanner.key", scanner.public_key)
        press.x0t("role", "grant", "--key", str(press.directory / "scanner.key"), "operator", "--expires", "90d")
        press.x0t("tag", "set", node, "camera", "--remove", "spare")
        press.x0t("tag", "set", node, "spare")
        press.x0t("node", "name", node, "press, by itself")
        self.say(
            "          press    grants a scanner the role operator; tags itself camera; puts spare back; names itself"
        )
        robot.x0t("tag", "set", self.id(robot), "trusted", "line-1")
        robot.x0t("node", "name", node, "press, by the robot")
        self.say("          robot    knows of no revocation: tags itself trusted; names press")
        self.end_step("nine batches that nobody else has seen")
        self.check("three replicas show three digests", len({m.status().digest for m in self.group}) == len(self.group))

    def join(self) -> str:
        """Let the links come up and wait for one state."""
        self.step("Joining them again")
        for machine in self.group:
            machine.x0t("link", "restore")
        digest = wait_equal(self.group)
        self.end_step(f"one digest {digest[:32]}...")
        self.check("three replicas show one digest again", len({m.status().digest for m in self.group}) == 1)
        return digest

    def explain(self) -> tuple[tuple[Conflict, ...], tuple[NoEffect, ...]]:
        """Who won and why, and what has no effect."""
        self.step("What won, and why")
        client = self.gateway.client
        conflicts = client.get("/replica/conflicts", tuple[Conflict, ...])
        for conflict in conflicts:
            self.say(f"          {conflict.kind} {shorten(conflict.subject)}: {conflict.winner}")
            self.say(f"               won over {', '.join(conflict.losers) or '-'}: {conflict.reason}")
        nodes = {node.node: node for node in client.get("/nodes", tuple[Node, ...])}
        press, robot = nodes[self.id(self.press)], nodes[self.id(self.robot)]
        self.say(f"          press has the tags {', '.join(press.tags)} and the name {press.name!r}")
        self.say(f"          robot has the roles {', '.join(robot.roles)} and the tags {', '.join(robot.tags) or '-'}")
        self.step("What has no effect, kept with its reason on all three")
        no_effect = client.get("/replica/no-effect", tuple[NoEffect, ...])
        for entry in no_effect:
            author = next(m.name for m in self.group if self.id(m) == entry.author)
            self.say(f"          {entry.kind} by {author}, batch {entry.batch[:18]}...: {entry.explanation}")
        self._check_outcome(press, robot, no_effect)
        return conflicts, no_effect

    def _check_outcome(self, press: Node, robot: Node, no_effect: tuple[NoEffect, ...]) -> None:
        grants = self.gateway.client.get("/grants", tuple[Grant, ...])
        scanner = [grant for grant in grants if grant.issuer == self.id(self.press)]
        self.check("the grant that press gave is in force", [grant.effect for grant in scanner] == [""])
        self.check("robot lost the role admin", "admin" not in robot.roles)
        self.check("what robot wrote beyond the revocation has no effect", "trusted" not in robot.tags)
        mine = [entry for entry in no_effect if entry.author == self.id(self.robot)]
        self.check("its two batches are kept with the reason", [e.reason for e in mine] == ["revoked", "revoked"])
        self.check("a tag put back against its removal stays", {"camera", "spare"} <= set(press.tags))
        same = {tuple(m.client.get("/replica/no-effect", tuple[NoEffect, ...])) for m in self.group}
        self.check("all three give the same reasons", len(same) == 1)
        logs = [m.client.get("/replica/batches", tuple[Batch, ...], limit=1000) for m in self.group]
        self.check("all three hold the same batches", len({frozenset(b.batch for b in log) for log in logs}) == 1)

    def refuse(self) -> dict[str, int]:
        """Knock as those who must stay outside, and show what the daemons counted."""
        self.step("Who is turned away at the door")
        key = self.gateway.directory / "stranger.pem"
        create_key(key)
        said = asyncio.run(knock(key, Address("127.0.0.1", self.gateway.port)))
        self.check("a node with a key of its own that nobody granted a role", said == "tls.peer_unknown")
        self.check("a client that does not speak TLS", knock_plain(self.gateway.port) == "tls.plain")
        self.check("an export of press with one flipped bit", self._import_tampered() == "archive.damaged")
        counts: Counter[str] = Counter()
        for machine in self.group:
            counts.update(machine.status().turned_away)
        self.say("          counted by the three: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
        return dict(counts)

    def _import_tampered(self) -> str:
        """Export, flip a bit in the middle, and offer it to gateway; returns its refusal."""
        file = self.press.directory / "export.x0t"
        self.press.x0t("replica", "export", str(file))
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        ask = FileAsk(path=str(file))
        return refusal(lambda: self.gateway.client.work("/replica/import", ask, Imported, lambda _line: None))

    def stop(self) -> None:
        """SIGTERM to all three."""
        self.step("Stopping")
        longest_s = max(machine.stop() for machine in self.group)
        self.end_step(f"the slowest took {longest_s:.2f} s")
        self.check("each daemon stopped within 2 s", longest_s < 2)

    def id(self, machine: Machine) -> str:
        """Node id of a machine."""
        return machine.key().node


async def knock(key: Path, address: Address) -> str:
    """Dial as the node of a key; returns what the other side says to it, or why this side left."""
    credentials = Credentials(key, lambda: time.time_ns() // 1_000_000)
    try:
        stream = await Dialler(credentials, lambda _node: True, LIMITS).open(address)
    except X0tError as err:
        return err.detail.get("reason", err.key)
    await stream.close()
    return ""


def knock_plain(port: int) -> str:
    """Speak plain HTTP to the port; returns the key that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = sock.recv(4096).decode("latin-1")
    return next((line.split(": ")[1] for line in head.splitlines() if line.startswith("X0t-Refusal: ")), "")


def shorten(text: str) -> str:
    """A subject with its ids cut to what a line can hold."""
    return "/".join(part if len(part) < 24 else part[:14] + "..." for part in text.split("/"))


def run(directory: Path, *, as_json: bool, keep: bool) -> Result:
    """Tell the whole story in a directory."""
    began_s = time.monotonic()
    with machines(directory, NAMES) as group:
        demo = Demo(group, quiet=as_json)
        demo.start()
        demo.converge()
        demo.cut()
        demo.write_apart()
        digest = demo.join()
        conflicts, no_effect = demo.explain()
        refused = demo.refuse()
        batches = group[0].status().batches
        memory = {machine.name: machine.rss_bytes() for machine in group}
        shown = ", ".join(f"{name} {size >> 20} MiB" for name, size in memory.items())
        demo.say(f"\n          resident memory: {shown}")
        if keep:
            for machine in group:
                machine.release()
        else:
            demo.stop()
    return Result(
        held=all(check.held for check in demo.checks),
        seconds=round(time.monotonic() - began_s, 3),
        digest=digest,
        batches=batches,
        checks=tuple(demo.checks),
        steps=tuple(demo.steps),
        conflicts=conflicts,
        no_effect=no_effect,
        refused_peers=refused,
        rss_bytes=memory,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ./run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./run", description="Three daemons on this machine, cut apart and joined.")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document on standard output")
    parser.add_argument("--keep", action="store_true", help="leave the daemons running")
    asked = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="x0t-"))  # a short path: unix sockets allow 107 bytes
    try:
        result = run(directory, as_json=asked.json, keep=asked.keep)
    except (RigError, X0tError) as err:
        sys.stderr.write(f"./run: {err}\n  What is left is in {directory}\n")
        return 1
    if asked.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        held = sum(check.held for check in result.checks)
        sys.stdout.write(f"\n{held} of {len(result.checks)} checks held; {result.seconds:.1f} s\n")
    if asked.keep:
        sys.stderr.write(_how_to_go_on(directory))
    elif result.held:
        shutil.rmtree(directory)
    return 0 if result.held else 1


def _how_to_go_on(directory: Path) -> str:
    sockets = "\n".join(
        f"  {sys.executable} -m appliance.cli --socket {directory}/{name}/run/x0td.sock replica status"
        for name in NAMES
    )
    return f"The daemons are still running. Ask them:\n{sockets}\nStop them: kill $(cat {directory}/*/data/lock)\n"


if __name__ == "__main__":
    sys.exit(main())
