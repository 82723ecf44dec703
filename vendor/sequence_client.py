#!/usr/bin/env python3
"""The sequence's side of adaptive-mask/1, for porting: pyzmq and the standard library alone.

Sends made-up readouts over MRD and takes its masks from the mask channel, as a scanner would::

    python sequence_client.py --mask tcp://127.0.0.1:9004 --mrd 127.0.0.1:9002 [--keys FOLDER]

What a real sequence does in its own loop is `Sequence.scan`; what it must get right is `answer`,
`decide` and the order of calls in `scan`. The contract is docs/mask-channel.md; section numbers
below are its own. `sequence_client.c` beside this file is the same in C.
"""

# ruff: noqa: D102, D103
import argparse
import contextlib
import json
import math
import os
import socket
import struct
import sys
import time
import uuid
from pathlib import Path

import zmq

MAGIC, SCHEMA = b"AMSK1", "adaptive-mask/1"
MAX_MESSAGE, MAX_HEADER = 64 * 1024, 16 * 1024
N_KY, CENTER = 64, 32
CALIBRATION = list(range(26, 38))
FALLBACK = [*range(2, 26, 4), *CALIBRATION, *range(40, 64, 4)]
GROUP = 2
N_SAMPLES, N_COILS = 64, 4
FIRST_IN_SLICE, LAST_IN_SLICE, MASK_CALIBRATION = 1 << 6, 1 << 7, 1 << 56
CONFIG_FILE, HEADER, CLOSE, TEXT, ACQUISITION, IMAGE = 1, 3, 4, 5, 1008, 1022


def pack_bitmap(counters):
    """Bit k, least significant first, is ky counter k (section 2); ky_min is 0 here."""
    bits = bytearray((N_KY + 7) // 8)
    for c in counters:
        bits[c >> 3] |= 1 << (c & 7)
    return bytes(bits)


def unpack_bitmap(bits, ky_min, ky_max):
    """Return the ascending counters of a bitmap, or None if its length or spare bits are wrong."""
    n = ky_max - ky_min + 1
    if n < 1 or len(bits) != (n + 7) // 8 or (n % 8 and bits[-1] >> (n % 8)):
        return None
    return [ky_min + k for k in range(n) if bits[k >> 3] >> (k & 7) & 1]


class Sequence:
    """One scan, and the little that must be remembered of it."""

    def __init__(
        self, mask_endpoint, mrd, *, n_slices, deadline_ms, tr_ms, config, keys=None, wait_s=10.0
    ):
        self.token = str(uuid.uuid4())  # a new one for every start, also after a crash (3)
        self.n_slices, self.deadline_ms, self.tr_ms = n_slices, deadline_ms, tr_ms
        self.ready, self.images, self.fallbacks, self.failure = False, 0, 0, ""
        self.inbox, self.highest, self.accepted, self.applied = {}, {}, set(), {}
        self.counter = 0
        host, _, port = mrd.rpartition(":")
        self.mrd = socket.create_connection((host, int(port)), timeout=30)
        self.mrd.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.context = zmq.Context()
        self.channel = self.context.socket(zmq.DEALER)
        self.channel.setsockopt(zmq.LINGER, 500)
        self.channel.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        # by which we are the same to the host when a connection breaks and comes back (1)
        self.channel.setsockopt(zmq.IDENTITY, b"\x01" + os.urandom(16))
        if keys:  # section 9
            secret = (Path(keys) / "client.key").read_bytes().strip()
            self.channel.setsockopt(zmq.CURVE_SECRETKEY, secret)
            self.channel.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
            server = (Path(keys) / "server.pub").read_bytes().split()[0]
            self.channel.setsockopt(zmq.CURVE_SERVERKEY, server)
        self.channel.connect(mask_endpoint)
        self.config, self.wait_s = config, wait_s

    # ---- the mask channel -------------------------------------------------------------------

    def say(self, kind, payload=b"", **fields):
        header = {"schema": SCHEMA, "kind": kind, **fields}
        frames = [MAGIC, json.dumps(header).encode(), payload]
        with contextlib.suppress(zmq.Again):  # nobody is there: the scan goes on without (8)
            self.channel.send_multipart(frames, zmq.NOBLOCK)

    def hello(self):
        """Fix the scan (4): the numbers are ours, the choice of lines is the reconstruction's."""
        self.say(
            "hello",
            pack_bitmap(range(N_KY)) + pack_bitmap(FALLBACK),
            role="sequence",
            scan_token=self.token,
            ky_min=0,
            ky_max=N_KY - 1,
            center=CENTER,
            calibration=CALIBRATION,
            n_lines=len(FALLBACK),
            group_size=GROUP,
            repetition="first",
            deadline_ms=self.deadline_ms,
            scanner="example in Python",
        )

    def drain(self):
        """Empty the inbox without waiting."""
        while True:
            try:
                frames = self.channel.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.receive(frames)

    def receive(self, frames):
        total = sum(map(len, frames))
        if total > MAX_MESSAGE or (len(frames) > 1 and len(frames[1]) > MAX_HEADER):
            return self.drop("oversized", f"{total} bytes")
        if len(frames) != 3 or frames[0] != MAGIC:
            return self.drop("malformed", "not three frames, or not AMSK1")
        try:
            header = json.loads(frames[1])
            if header["schema"] != SCHEMA:
                raise ValueError("schema")
            kind = header["kind"]
            if kind == "welcome":
                self.ready = header["ready"] is True
            elif kind == "mask":
                self.answer(header, frames[2])
            elif kind == "error" and header["reason"] == "no-hello":
                self.hello()  # the binder is a new one, or forgot us
            elif kind in ("nack", "error", "bye"):
                self.ready = False  # no mask will come: the fallback serves (8)
            elif kind != "heartbeat":
                raise ValueError("kind")
        except (ValueError, KeyError, TypeError) as error:
            self.drop("malformed", f"{type(error).__name__}: {error}"[:200])

    def drop(self, reason, detail):
        self.say("error", reason=reason, detail=detail)

    def answer(self, header, payload):
        """Put a valid mask into the inbox and ack it, or say why not (6, 7)."""
        scope = int(header["scope"]["slice"]), int(header["scope"]["repetition"])
        message_id, number = str(uuid.UUID(header["message_id"])), int(header["sequence_no"])
        counters = unpack_bitmap(payload, int(header["ky_min"]), int(header["ky_max"]))
        if counters is None or header["n_lines"] != len(counters):
            raise ValueError("bitmap")
        refusal = self.refusal(header, scope, message_id, number, counters)
        if refusal:
            reason, detail = refusal
            fields = {"message_id": message_id, "reason": reason, "detail": detail}
            return self.say("nack", scan_token=header["scan_token"], **fields)
        if message_id not in self.accepted:  # the same message twice counts once
            self.accepted.add(message_id)
            self.highest[scope] = number
            self.inbox[scope] = message_id, counters
        self.say("ack", scan_token=self.token, message_id=message_id)

    def refusal(self, header, scope, message_id, number, counters):
        if header["scan_token"] != self.token:
            return "foreign", "another scan's mask"
        if scope in self.applied:
            return None if self.applied[scope] == message_id else ("late", "being measured")
        if message_id not in self.accepted and number <= self.highest.get(scope, -1):
            return "stale", "an older sequence number"
        wrong = self.window(header) or self.check(counters) or self.check_scope(scope)
        return ("invalid", wrong) if wrong else None

    def window(self, header):
        inside = header["ky_min"] == 0 and header["ky_max"] == N_KY - 1
        return "" if inside else "not the window of the hello"

    def check(self, counters):
        """Why these lines are no mask of this scan, "" if they are (6)."""
        if not set(CALIBRATION) <= set(counters):
            return "calibration missing"
        if (len(counters) - len(CALIBRATION)) % GROUP:
            return "group size"
        if len(counters) != len(FALLBACK):
            return "budget"
        return ""

    def check_scope(self, scope):
        return "" if scope[0] < self.n_slices and scope[1] == 0 else "no such scope"

    # ---- the sequence -----------------------------------------------------------------------

    def scan(self):
        """Run the scan; returns 0 if it went through, with or without masks."""
        self.hello()
        self.send(CONFIG_FILE, self.config.encode().ljust(1024, b"\0"))
        xml = mrd_header(self.token, self.n_slices)
        self.send(HEADER, struct.pack("<I", len(xml)) + xml)
        self.wait_ready(self.wait_s)
        for number in range(self.n_slices):
            self.measure_slice(number)
        self.send(CLOSE, b"")
        self.finish()
        self.say("bye", scan_token=self.token)
        self.channel.close()
        self.context.term()
        self.mrd.close()
        return 1 if self.failure else 0

    def wait_ready(self, seconds):
        """Before the scan, waiting is allowed; without an answer it runs on its fallback."""
        until = time.monotonic() + seconds
        while not self.ready and time.monotonic() < until:
            self.channel.poll(20)
            self.drain()

    def measure_slice(self, number):
        self.hello()  # again: it tells a host that lost our connection that we are back (4)
        self.lines(number, CALIBRATION, calibration=True)
        message_id, counters, reason = self.decide((number, 0))
        self.announce(number, message_id, counters, reason)
        self.lines(number, [c for c in counters if c not in CALIBRATION], calibration=False)

    def decide(self, scope):
        """Look once into the inbox, `deadline_ms` after the last calibration line (5)."""
        self.sleep_until(time.monotonic() + self.deadline_ms / 1000)
        self.drain()
        if scope in self.inbox:
            return *self.inbox[scope], "mask"
        self.fallbacks += 1
        return None, FALLBACK, f"no mask within {self.deadline_ms:g} ms"

    def sleep_until(self, instant):
        """Stands for whatever a sequence does between the calibration and the rest."""
        while (left := instant - time.monotonic()) > 0:
            self.channel.poll(max(1, math.ceil(left * 1000)))
            self.drain()

    def announce(self, number, message_id, counters, reason):
        """Say what is measured, before the first adaptive line."""
        self.applied[number, 0] = message_id
        self.inbox.pop((number, 0), None)
        self.say(
            "applied",
            pack_bitmap(counters),
            scan_token=self.token,
            message_id=message_id,
            scope={"slice": number, "repetition": 0},
            ky_min=0,
            ky_max=N_KY - 1,
            n_lines=len(counters),
            fallback=message_id is None,
            reason=reason,
        )

    def lines(self, number, counters, *, calibration):
        for i, ky in enumerate(counters):
            flags = MASK_CALIBRATION if calibration else 0
            if calibration and i == 0:
                flags |= FIRST_IN_SLICE
            if not calibration and i == len(counters) - 1:
                flags |= LAST_IN_SLICE
            self.line(number, ky, flags)
            time.sleep(self.tr_ms / 1000)
            self.drain()

    # ---- the MRD stream ---------------------------------------------------------------------

    def send(self, number, body):
        self.mrd.sendall(struct.pack("<H", number) + body)

    def line(self, number, ky, flags):
        """One readout of a small square object; the numbers do not matter to the contract."""
        self.counter += 1
        head = bytearray(340)
        struct.pack_into("<HQIII", head, 0, 1, flags, 1, self.counter, self.counter)
        struct.pack_into("<HHH", head, 34, N_SAMPLES, N_COILS, N_COILS)
        struct.pack_into("<HHHf", head, 172, N_SAMPLES // 2, 0, 0, 5.0)
        struct.pack_into("<3f", head, 182, 0, 0, 6.0 * number)
        struct.pack_into("<9f", head, 194, 1, 0, 0, 0, 1, 0, 0, 0, 1)
        struct.pack_into("<HHHH", head, 242, ky, 0, 0, number)
        samples = []
        for coil in range(N_COILS):
            for kx in range(-N_SAMPLES // 2, N_SAMPLES // 2):
                value = sinc(kx * 0.3) * sinc((ky - CENTER) * 0.4) * (1 + number / 10)
                angle = 0.7 * coil + 0.05 * coil * kx
                samples += [value * math.cos(angle), value * math.sin(angle)]
        self.send(ACQUISITION, bytes(head) + struct.pack(f"<{len(samples)}f", *samples))

    def finish(self):
        """Read the host's images to its CLOSE, and go on answering late masks meanwhile."""
        while True:
            if not self.wait_readable():
                self.failure = "the host ended without CLOSE"
                return
            (number,) = struct.unpack("<H", self.read(2))
            if number == CLOSE:
                return
            if number == TEXT:
                text = self.read(struct.unpack("<I", self.read(4))[0]).decode(errors="replace")
                if "ERROR" in text:
                    self.failure = text
            elif number == IMAGE:
                head = self.read(198)
                (kind,), shape = (
                    struct.unpack_from("<H", head, 2),
                    struct.unpack_from("<3H", head, 16),
                )
                (channels,) = struct.unpack_from("<H", head, 34)
                self.read(struct.unpack("<Q", self.read(8))[0])
                self.read(
                    math.prod(shape) * channels * {1: 2, 2: 2, 5: 4, 6: 8, 7: 8, 8: 16}.get(kind, 4)
                )
                self.images += 1
            else:
                self.failure = f"message {number} was not expected"
                return

    def wait_readable(self):
        poller = zmq.Poller()
        poller.register(self.mrd.fileno(), zmq.POLLIN)
        poller.register(self.channel, zmq.POLLIN)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            ready = dict(poller.poll(200))
            self.drain()
            if self.mrd.fileno() in ready:
                return bool(self.mrd.recv(1, socket.MSG_PEEK))
        return False

    def read(self, n):
        data = b""
        while len(data) < n:
            part = self.mrd.recv(n - len(data))
            if not part:
                raise ConnectionError("the host closed in mid-message")
            data += part
        return data


def sinc(x):
    return 1.0 if x == 0 else math.sin(x) / x


def mrd_header(token, n_slices):
    """Write the MRD header: ky limits as in the hello, and the scan token (3)."""
    space = (
        f"<matrixSize><x>{N_SAMPLES}</x><y>{N_KY}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{N_SAMPLES}</x><y>{N_KY}</y><z>5</z></fieldOfView_mm>"
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<acquisitionSystemInformation><receiverChannels>{N_COILS}</receiverChannels>"
        "</acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding><encodedSpace>{space}</encodedSpace>"
        f"<reconSpace>{space}</reconSpace><encodingLimits><kspace_encoding_step_1><minimum>0"
        f"</minimum><maximum>{N_KY - 1}</maximum><center>{CENTER}</center>"
        f"</kspace_encoding_step_1><slice><minimum>0</minimum><maximum>{n_slices - 1}</maximum>"
        "<center>0</center></slice></encodingLimits><trajectory>cartesian</trajectory></encoding>"
        "<userParameters><userParameterString><name>mnet_scan_token</name>"
        f"<value>{token}</value></userParameterString></userParameters></ismrmrdHeader>"
    ).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mask", default="tcp://127.0.0.1:9004")
    parser.add_argument("--mrd", default="127.0.0.1:9002", metavar="HOST:PORT")
    parser.add_argument("--keys", help="folder with client.key and server.pub")
    parser.add_argument("--slices", type=int, default=14)
    parser.add_argument("--scans", type=int, default=1)
    parser.add_argument("--deadline-ms", type=float, default=500.0)
    parser.add_argument("--tr-ms", type=float, default=2.0)
    parser.add_argument("--wait-s", type=float, default=10.0, help="for the other side, at first")
    parser.add_argument("--config", default="adaptive_modl.xml")
    options = parser.parse_args()
    status = 0
    for _ in range(options.scans):
        sequence = Sequence(
            options.mask,
            options.mrd,
            n_slices=options.slices,
            deadline_ms=options.deadline_ms,
            tr_ms=options.tr_ms,
            config=options.config,
            keys=options.keys,
            wait_s=options.wait_s,
        )
        status |= sequence.scan()
        print(
            f"{options.slices} slices, {sequence.fallbacks} on the fallback, "
            f"{sequence.images} images {sequence.failure}"
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
