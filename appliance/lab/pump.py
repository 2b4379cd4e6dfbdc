"""The pump: a process of its own that carries frames between pairs of TAP devices, late or not at all.

`python -m appliance.lab.pump` takes orders as JSON datagrams on its standard input, a socket, with the two TAP
descriptors of a new pipe beside the order, and answers each with the pipe's counts. It needs no privileges, opens
nothing, and ends when the other side of that socket does. A TAP hands over whole frames with finished checksums,
so no offload needs care here.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from appliance.lab.line import Line, Shape
from appliance.lab.namespaces import LabError

ARGV: Final = (sys.executable, "-m", "appliance.lab.pump")
ANSWER_S: Final = 10.0  # for the start of the interpreter too
_ORDER_BYTES: Final = 4_096
_FRAME_BYTES: Final = 65_536
_BURST: Final = 64  # frames read from one device before the others have their turn
_TAP_QUEUE: Final = 1_000  # frames that a TAP holds for its reader: the kernel's txqueuelen


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Make this pipe from the descriptors that come along, if any; give it this shape, if any; say its counts."""

    pipe: int
    shape: Shape | None = None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that a host sent into a pipe, by what became of them; `waiting` ones are still on their way."""

    passed: int
    lost: int
    overflowed: int
    waiting: int


class Pipe:
    """From `near`, the host's device, to `far` as the shape says; the other way at once."""

    def __init__(self, near: int, far: int) -> None:
        self.line: Final = Line(Shape())
        self.near: Final = near
        self.far: Final = far
        self.is_open = True

    def carry(self, readable: set[int]) -> None:
        """Move what can be moved now."""
        if self.near in readable:
            for frame in self._frames(self.near):
                self.line.take(frame, time.monotonic_ns())
        for frame in self.line.due(time.monotonic_ns()):
            self._send(self.far, frame)
        if self.far in readable:
            for frame in self._frames(self.far):
                self._send(self.near, frame)

    def counts(self) -> Counts:
        """What became of the host's frames so far."""
        line = self.line
        return Counts(passed=line.passed, lost=line.lost, overflowed=line.overflowed, waiting=line.waiting)

    def shape(self, shape: Shape) -> None:
        """What the host sent until now still has the former shape."""
        now_ns = time.monotonic_ns()
        for frame in self._frames(self.near, _TAP_QUEUE):
            self.line.take(frame, now_ns)
        self.line.shape(shape)

    def _frames(self, device: int, most: int = _BURST) -> list[bytes]:
        frames: list[bytes] = []
        try:
            while len(frames) < most:
                frames.append(os.read(device, _FRAME_BYTES))
        except BlockingIOError:
            pass
        except OSError:  # the device went with its namespace
            self.is_open = False
        return frames

    def _send(self, device: int, frame: bytes) -> None:
        try:
            os.write(device, frame)
        except OSError:  # the device is down: so is the link, and the frame is lost
            pass


def serve(control: socket.socket) -> None:
    """Carry frames until the other side of `control` is closed."""
    pipes: dict[int, Pipe] = {}
    while True:
        carried = [pipe for pipe in pipes.values() if pipe.is_open]
        devices = [device for pipe in carried for device in (pipe.near, pipe.far)]
        readable = set(select.select([control.fileno(), *devices], [], [], _idle_s(carried))[0])
        if control.fileno() in readable and not _obey(control, pipes):
            return
        for pipe in carried:
            pipe.carry(readable)


def _idle_s(pipes: list[Pipe]) -> float | None:
    dues = [due for pipe in pipes if (due := pipe.line.next_ns()) is not None]
    return max(0, min(dues) - time.monotonic_ns()) / 1e9 if dues else None


def _obey(control: socket.socket, pipes: dict[int, Pipe]) -> bool:
    """Carry out one order and answer it; False at the end of all orders."""
    data, descriptors, _, _ = socket.recv_fds(control, _ORDER_BYTES, 2)
    if not data:
        return False
    order = msgspec.json.decode(data, type=Order)
    if descriptors:
        near, far = descriptors
        pipes[order.pipe] = Pipe(near, far)
    if order.shape is not None:
        pipes[order.pipe].shape(order.shape)
    control.send(msgspec.json.encode(pipes[order.pipe].counts()))
    return True


class Pump:
    """The other side: the site's hold on its pump process."""

    def __init__(self, run: Callable[[socket.socket], None]) -> None:
        """`run` starts the process with this socket as its standard input."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_S)
        with theirs:
            run(theirs)

    def order(self, order: Order, devices: tuple[int, int] | None = None) -> Counts:
        """Have an order carried out; a new pipe takes its two devices along. Returns the pipe's counts until then."""
        try:
            socket.send_fds(self._control, [msgspec.json.encode(order)], list(devices or ()))
            answer = self._control.recv(_ORDER_BYTES)
        except OSError as err:
            raise LabError(f"the pump does not answer: {err}") from err
        if not answer:
            raise LabError("the pump has ended")
        return msgspec.json.decode(answer, type=Counts)

    def close(self) -> None:
        """Let the process end."""
        self._control.close()


def main() -> None:
    """Run the pump on standard input."""
    gc.disable()  # frames make no cycles, and a collection would look like jitter
    with socket.socket(fileno=os.dup(0)) as control:
        serve(control)


if __name__ == "__main__":
    main()
