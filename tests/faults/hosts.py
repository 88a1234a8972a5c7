"""Two hosts on this machine: network namespaces of their own, joined by a wire that can be cut, slow and lossy.

The wire is this process, which carries packets between two tun devices; so it needs no kernel module for delay and
loss. Needs root, `ip` (iproute2) and /dev/net/tun.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
ADDRESSES = ("10.77.0.1", "10.77.0.2")
MTU = 1500


def missing() -> str:
    """Why there can be no two hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "must be root to make network namespaces"
    if shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        return "no ip (iproute2) or no /dev/net/tun"
    made = subprocess.run(["ip", "netns", "add", "pgjax-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "pgjax-probe"], capture_output=True)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else ""


class Wire:
    """Carries packets between two tun devices; `cut`, `delay` in seconds and `loss` may change at any time."""

    def __init__(self, ends: tuple[int, int]):
        self.cut, self.delay, self.loss, self.carried = False, 0.0, 0.0, 0
        self._ends, self._stop = ends, threading.Event()
        self._random = random.Random(0)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        other = dict(zip(self._ends, self._ends[::-1]))
        queue: list[tuple[float, int, int, bytes]] = []
        while not self._stop.is_set():
            wait = min(0.1, max(0.0, queue[0][0] - time.monotonic())) if queue else 0.1
            for end in select.select(self._ends, (), (), wait)[0]:
                packet = os.read(end, 65536)
                if not self.cut and self._random.random() >= self.loss:
                    self.carried += 1
                    heapq.heappush(queue, (time.monotonic() + self.delay, self.carried, other[end], packet))
            while queue and queue[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(queue)
                if not self.cut:
                    os.write(end, packet)

    def end(self) -> None:
        """Carry no more."""
        self._stop.set()
        self._thread.join()


@contextmanager
def two_hosts() -> Iterator[tuple[Wire, list[list[str]]]]:
    """A wire, and for each host what a command line begins with to run on it."""
    with ExitStack() as stack:
        ends, prefixes = [], []
        for i, address in enumerate(ADDRESSES):
            name = f"pgjax-{os.getpid()}-{i}"
            end = os.open("/dev/net/tun", os.O_RDWR)
            stack.callback(os.close, end)
            fcntl.ioctl(
                end, TUNSETIFF, struct.pack("16sH", f"pgjax{os.getpid() % 10**6}{i}".encode(), IFF_TUN | IFF_NO_PI)
            )
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "set", f"pgjax{os.getpid() % 10**6}{i}", "netns", name, "name", "wire")
            inside = ["ip", "netns", "exec", name]
            for command in (
                f"ip address add {address}/24 dev wire",
                f"ip link set wire mtu {MTU} up",
                "ip link set lo up",
            ):
                subprocess.run([*inside, *command.split()], check=True)
            ends.append(end)
            prefixes.append(inside)
        wire = Wire((ends[0], ends[1]))
        stack.callback(wire.end)
        yield wire, prefixes


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
