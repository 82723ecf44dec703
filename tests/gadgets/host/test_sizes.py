"""Small input of large cost: refused at the header or the line, before room is made for it."""

import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from io import BytesIO

import numpy as np
import pytest

from gadgets.errors import ConfigError, GadgetError, HeaderError, ProtocolError
from gadgets.files.mrd_stream import reader
from gadgets.host.session import CLIENT
from gadgets.host.stream import run_stream
from gadgets.limits.scan_size import check_header, check_line
from gadgets.limits.settings import Limits
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.messages import Close, ConfigFile, Header, write_message
from gadgets.mrd.nhlbi import MAX_VALUES, decompress
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import split
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import scanned


def header(n_x: int, n_y: int, n_coils: int = 1) -> bytes:
    matrix, fov = (n_x, n_y, 1), (256.0, 256.0, 5.0)
    return header_xml(encoded=matrix, encoded_fov=fov, recon=matrix, recon_fov=fov, n_coils=n_coils)


LARGE = [
    (header(65535, 65535), "65535 x 65535, expected at most 4096"),
    (header(12000, 12000), "12000 x 12000, expected at most 4096"),
    (header(256, 256, 65535), "65535 coils, expected at most 256"),
    (header(4096, 4096, 64), "need about 51.5 GB, expected at most 8 GB"),
]


@pytest.mark.parametrize(("xml", "words"), LARGE)
def test_a_scan_that_is_too_large_is_refused_at_its_header_before_anything_is_rehearsed(
    xml: bytes, words: str
) -> None:
    assert len(xml) < 2000
    near, far = socket.socketpair()
    tracemalloc.start()
    with near, served(far, services(), CLIENT) as failures:  # where a worker would fail the test
        for message in (ConfigFile("adaptive_modl.xml"), Header(xml), Close()):
            near.sendall(write_message(message))
        told = near.recv(1 << 16).decode(errors="replace")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(failures[0], HeaderError)
    assert words in told
    assert "--max-" in told
    assert "docs/deployment.md" in told
    assert peak < 10e6


@pytest.mark.parametrize(("xml", "words"), LARGE)
def test_a_stream_between_pipes_has_the_same_limits(xml: bytes, words: str) -> None:
    read = reader(BytesIO(write_message(Header(xml)) + write_message(Close())))
    with pytest.raises(HeaderError, match=words):
        run_stream(read, lambda data: None, load("zero_filled.xml"))


def test_lines_of_more_coils_than_a_header_announced_are_measured_by_what_they_are() -> None:
    xml = header(4096, 4096).replace(b"receiverChannels", b"unknown")
    geometry, limits = Geometry.parse(xml), Limits()
    assert geometry.n_coils is None
    check_header(geometry, limits)
    check_line(geometry, (8, 4096), limits)
    with pytest.raises(GadgetError, match=r"11 coils of 4096 x 4096 need about 8\.86 GB"):
        check_line(geometry, (5, 11, 4096), limits)
    with pytest.raises(GadgetError, match="300 coils, expected at most 256"):
        check_line(geometry, (300, 2), limits)
    with pytest.raises(GadgetError, match="40000 samples, expected at most 32768"):
        check_line(geometry, (1, 40000), limits)


def test_a_line_without_room_ends_the_scan_with_a_word() -> None:
    scan = scanned(n_coils=3)
    near, far = socket.socketpair()
    limits = Limits(samples=40)
    near.settimeout(60)
    with near, served(far, services(limits=limits, open_worker=lambda *_: Nothing()), CLIENT):
        for message in (ConfigFile("zero_filled.xml"), Header(scan.header), scan.line(3), Close()):
            near.sendall(write_message(message))
        assert "48 samples, expected at most 40" in near.recv(1 << 16).decode(errors="replace")


class Nothing:
    """In place of the worker's end of a scan."""

    counts: dict[str, int]

    def __init__(self) -> None:
        self.counts = {}

    def drop(self) -> None:
        """Nothing is there."""


def test_limits_of_size_are_an_operators_to_raise() -> None:
    geometry = Geometry.parse(header(6000, 6000, 4))
    check_header(geometry, Limits(matrix=8192))
    with pytest.raises(HeaderError, match=r"need about 6\.91 GB, expected at most 2 GB"):
        check_header(geometry, Limits(matrix=8192, memory_gb=2.0))
    with pytest.raises(ConfigError):
        Limits(matrix=0)


@pytest.mark.parametrize("n_lines", range(1, 8))
def test_too_few_lines_for_a_mask_are_a_clear_error(n_lines: int) -> None:
    low = 32 - n_lines // 2
    xml = scanned(n_ky=64).header
    for name, old, new in (("minimum", 0, low), ("maximum", 63, low + n_lines - 1)):
        tag = f"<{name}>{old}</{name}>".encode()
        assert tag in xml
        xml = xml.replace(tag, f"<{name}>{new}</{name}>".encode(), 1)
    geometry = Geometry.parse(xml)
    assert geometry.limit_counters.size == n_lines
    predict = split(parse(load("adaptive_modl.xml")))[0]
    with pytest.raises(GadgetError, match=rf"{n_lines} lines can be acquired.*expected at least 8"):
        for gadget in predict:
            gadget.warm(Scan(geometry=geometry, models=Models()))


# Compressed lines.


def packed(values: np.ndarray, bits: int, scale: float = 1.0) -> bytes:
    """Pack integers as the specification says, one bit at a time."""
    total = sum((int(v) & ((1 << bits) - 1)) << (i * bits) for i, v in enumerate(values))
    n_bytes = -(-len(values) * bits // 8)
    return struct.pack("<QfB", len(values), scale, bits) + total.to_bytes(n_bytes, "little")


@pytest.mark.parametrize("bits", range(1, 33))
def test_integers_of_every_width_are_those_that_were_packed(bits: int) -> None:
    rng = np.random.default_rng(bits)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    values = rng.integers(low, high, 200, endpoint=True)
    values[:2] = low, high
    found = decompress(packed(values, bits, 4.0), 100).view(np.float32)
    np.testing.assert_array_equal(found, (values / np.float64(4.0)).astype(np.float32))


def test_a_compressed_line_of_more_samples_than_any_has_is_refused_before_it_is_decoded() -> None:
    n = MAX_VALUES + 1
    block = struct.pack("<QfB", 2 * n, 1.0, 1) + bytes(2 * n // 8 + 1)
    began = time.process_time()
    with pytest.raises(ProtocolError, match=f"at most {MAX_VALUES} are read"):
        decompress(block, n)
    assert time.process_time() - began < 0.5


def test_the_largest_compressed_line_takes_seconds_and_little_more_than_its_samples() -> None:
    """In a process of its own, whose memory is bounded: the samples are 64 MB, and the block 2."""
    script = (
        "import resource, struct, time; from gadgets.mrd.nhlbi import MAX_VALUES, decompress\n"
        "block = struct.pack('<QfB', 2 * MAX_VALUES, 1.0, 1) + bytes(MAX_VALUES // 4)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began = time.process_time(); decompress(block, MAX_VALUES)\n"
        "assert time.process_time() - began < 8, time.process_time() - began\n"
        "grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used\n"
        "assert grew < 120_000, grew\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
