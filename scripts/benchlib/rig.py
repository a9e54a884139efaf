"""A long link between two network namespaces: one process holds a TUN device of each, delays, drops and limits.

The kernel may have no netem; this needs none. Packets that are read from one device are written to the other after half
the round trip; a seeded generator drops some; each direction is limited to the rate, with a queue of one bandwidth-delay
product in front of it. Everything stays inside the namespaces.
"""

import collections
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
MTU = 1500
SITE, CLOUD = "10.99.0.1", "10.99.0.2"


def ip(*argv):
    subprocess.run(["ip", *argv], check=True)


class Rig:
    """The link, for a `with`. `site` and `cloud` are prefixes of commands that run at either end."""

    def __init__(self, rtt, rate, loss, seed=1):
        """`rtt` in seconds, `rate` in bits a second, `loss` a share of all packets."""
        self.rtt, self.rate, self.loss, self.seed = rtt, rate, loss, seed
        self.names = [f"packmule-{end}-{os.getpid()}" for end in ("site", "cloud")]
        self.site, self.cloud = (["ip", "netns", "exec", name] for name in self.names)

    def __enter__(self):
        self.pid = None
        try:
            devices = [self.end(name, own, other) for name, own, other in zip(self.names, (SITE, CLOUD), (CLOUD, SITE))]
            self.pid = os.fork()
            if self.pid == 0:
                self.carry(devices)
            for device in devices:
                os.close(device)
        except BaseException:
            self.close()
            raise
        return self

    def end(self, name, own, other):
        """Makes one end; returns its device."""
        ip("netns", "add", name)
        libc, home = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"long0", IFF_TUN | IFF_NO_PI))
        finally:
            libc.setns(home, CLONE_NEWNET)
            os.close(home)
            os.close(there)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", own, "peer", other, "dev", "long0")
        # The queue that counts is the one below.
        ip("-n", name, "link", "set", "long0", "mtu", str(MTU), "txqueuelen", "10000", "up")
        return device

    def carry(self, devices):
        """The process between the two ends; never returns."""
        try:
            os.nice(-10)
            lines = [Line(devices[0], devices[1], self, self.seed), Line(devices[1], devices[0], self, self.seed + 1)]
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            while True:
                now = time.monotonic()
                due = min(line.deliver(now) for line in lines)
                readable, _, _ = select.select(devices, [], [], max(0.0, min(due - time.monotonic(), 1.0)))
                now = time.monotonic()
                for line in lines:
                    if line.source in readable:
                        line.take(now)
        finally:
            os._exit(1)

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitpid(self.pid, 0)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self.close()


class Line:
    """One direction."""

    def __init__(self, source, target, rig, seed):
        self.source, self.target = source, target
        self.loss, self.delay, self.second = rig.loss, rig.rtt / 2, 8 / rig.rate
        # At least what a sender hands over at once.
        self.room = max(rig.rtt, 0.01)
        self.random = random.Random(seed).random
        self.free = 0.0
        self.waiting = collections.deque()

    def take(self, now):
        """Reads what there is, a burst at most."""
        read, source, second, waiting = os.read, self.source, self.second, self.waiting
        for _ in range(64):
            try:
                packet = read(source, MTU + 64)
            except BlockingIOError:
                return
            free = max(self.free, now)
            if free - now > self.room or self.random() < self.loss:
                continue
            self.free = free + len(packet) * second
            waiting.append((self.free + self.delay, packet))

    def deliver(self, now):
        """Writes what is due; when the next will be."""
        waiting, target = self.waiting, self.target
        while waiting and waiting[0][0] <= now:
            try:
                os.write(target, waiting[0][1])
            except BlockingIOError:
                return now + 0.0005
            except OSError:
                pass
            waiting.popleft()
        return waiting[0][0] if waiting else now + 1.0
