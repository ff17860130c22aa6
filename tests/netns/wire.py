#!/usr/bin/env python3
"""A slow link: passes frames between two network devices, late, with losses, at a limited rate.

usage: wire.py DEVICE DEVICE DELAY_MS LOSS_PER_1000 RATE_MBIT
       wire.py --plain DEVICE

Kernels without the qdisc netem cannot do this themselves. The second form has a device leave nothing to its
network card: frames in full, of ordinary size, with checksums.
"""

import ctypes
import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

ALL_FRAMES = 3
FRAME = 65536
SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)
# Frames that wait at one end; more are lost, as in any switch.
QUEUE = 500


def plain(device: str) -> None:
    """Switches off what network cards do for the kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS:
            value = bytearray(struct.pack("II", command, 0))
            address = memory_address(value)
            request = struct.pack("16sQ", device.encode(), address)
            try:
                fcntl.ioctl(control, SIOCETHTOOL, request)
            except OSError as error:
                sys.exit(f"{device}: {error}")


def memory_address(buffer: bytearray) -> int:
    """Where the bytes of a buffer are, which must outlive the use of this."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


class End:
    """One end of the link."""

    def __init__(self, device: str):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
        self.socket.bind((device, 0))
        self.socket.setblocking(False)
        self.free_at = 0.0
        self.waiting = 0

    def receive(self) -> "bytes | None":
        """The next frame that came in, if there is one."""
        while True:
            try:
                frame, (_, _, kind, _, _) = self.socket.recvfrom(FRAME)
            except BlockingIOError:
                return None
            if kind != socket.PACKET_OUTGOING:
                return frame


def carry(ends: "list[End]", delay: float, loss: float, rate: float) -> None:
    """Passes frames on, until killed."""
    dice = random.Random(1)
    due: list = []
    number = 0
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        readable, _, _ = select.select([end.socket for end in ends], [], [], wait)
        now = time.monotonic()
        for index, end in enumerate(ends):
            if end.socket not in readable:
                continue
            while frame := end.receive():
                if dice.random() < loss or end.waiting >= QUEUE:
                    continue
                end.free_at = max(end.free_at, now) + len(frame) / rate
                end.waiting += 1
                number += 1
                heapq.heappush(due, (end.free_at + delay, number, index, frame))
        while due and due[0][0] <= now:
            _, _, index, frame = heapq.heappop(due)
            ends[index].waiting -= 1
            try:
                ends[1 - index].socket.send(frame)
            except OSError:
                # The device is down, or the frame too long: lost.
                pass


def main() -> None:
    """The command line."""
    if len(sys.argv) == 3 and sys.argv[1] == "--plain":
        plain(sys.argv[2])
        return
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    delay, loss, rate = (int(word) for word in sys.argv[3:])
    carry([End(device) for device in sys.argv[1:3]], delay / 1e3, loss / 1e3, rate * 1e6 / 8)


if __name__ == "__main__":
    main()
