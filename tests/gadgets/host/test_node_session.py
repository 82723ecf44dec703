"""Our node's end of the connection to Gadgetron, without a process; and the pipelines we ship."""

import socket
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from gadgets.errors import ConfigError, ProtocolError
from gadgets.external import OneScan, read_settings
from gadgets.host.choice import node_pipeline
from gadgets.host.connection import MrdConnection
from gadgets.host.session import PARENT
from gadgets.mrd.header_layouts import IMAGE_HEADER
from gadgets.mrd.items import Image
from gadgets.pipeline.build import load, parse
from tests.gadgets.helpers.external_parent import (
    CAPTURES,
    CLOSE,
    QUICK,
    Link,
    Received,
    acquisition_bytes,
    failed,
    node_document,
)
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import scanned

SHIPPED = (
    "gadgetron_adaptive_modl.xml",
    "gadgetron_adaptive_modl_retrospective.xml",
    "gadgetron_adaptive_modl_connect.xml",
)


def converse(stream: bytes) -> list[Received]:
    """Send a parent's bytes to a session in this process, and give what it answers: it fails."""
    ours, theirs = socket.socketpair()
    with served(theirs, services(), PARENT) as failures:
        link = Link(ours)
        ours.sendall(stream)  # never blocks for good: the session reads all of it
        messages = link.rest()
        ours.close()
    assert failures[0] is not None
    return messages


def text_message(number: int, text: bytes) -> bytes:
    return struct.pack("<HI", number, len(text)) + text


END = struct.pack("<H", CLOSE)


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        (b'<?xml version="1.0"?>\n', "no readable <configuration>"),  # a node without one
        (b'<?xml version="1.0"?>\n<configuration />\n', "has no <configuration> that lists"),
        (b"<configuration><property name='a' value='1' /></configuration>", "<property>"),
        (b"<configuration><gadget class='A' /><gadget class='B' /></configuration>", "'B'"),
        (b"\xff\xfe not XML", "no readable <configuration>"),
    ],
)
def test_a_configuration_that_cannot_be_is_an_error(configuration: bytes, complaint: str) -> None:
    scan = scanned()
    stream = text_message(2, configuration) + text_message(3, scan.header)
    stream += b"".join(acquisition_bytes(line) for line in scan.lines()) + END
    messages = converse(stream)
    assert complaint in failed(messages)
    assert len(messages) == 2


def test_a_header_that_cannot_be_is_an_error() -> None:
    stream = text_message(2, node_document(QUICK)) + text_message(3, b"Dummy XML header") + END
    assert "the MRD header is no XML" in failed(converse(stream))


def test_ids_that_gadgetron_refuses_from_a_node_are_never_sent() -> None:
    query = struct.pack("<HQQQ", 6, 0, 1, 3) + b"key"  # would be answered with a RESPONSE
    stream = text_message(2, node_document(QUICK)) + query + END
    assert "Response is not taken from an external node" in failed(converse(stream))


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
def test_pixel_types_that_gadgetron_does_not_take_from_a_node_are_never_sent(dtype: str) -> None:
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["data_type"], header["matrix_size"], header["channels"] = (
        {"<i2": 2, "<i4": 4}[dtype],
        1,
        1,
    )
    image = Image(header=header, data=np.zeros((1, 1, 1, 1), dtype), meta={})
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError, match="is not taken from an external node"):
        MrdConnection(theirs, PARENT.manner, str).send(image)


def test_settings_of_a_node_are_checked(tmp_path: Path) -> None:
    configuration = node_document(QUICK, {"mask_endpoint": "ipc:///tmp/masks", "device": "cuda:1"})
    assert read_settings(configuration) == {
        "mask_endpoint": "ipc:///tmp/masks",
        "mask_keys": "",
        "device": "cuda:1",
        "gadgets": "",
        "stall_s": "30",
    }
    with pytest.raises(ConfigError, match="stall_s is 'long', expected seconds"):
        read_settings(node_document(QUICK, {"stall_s": "long"}))
    assert OneScan(node_document(QUICK, {"stall_s": "4"})).services().limits.stall_s == 4
    with pytest.raises(ConfigError, match="no attribute mask_endpiont; it has mask_endpoint"):
        read_settings(node_document(QUICK, {"mask_endpiont": "tcp://127.0.0.1:1"}))
    away = OneScan(node_document(QUICK, {"mask_endpoint": "tcp://10.0.0.1:9004"}))
    with pytest.raises(ConfigError, match=r"mask endpoint tcp://10\.0\.0\.1:9004"):
        away.services().masks.open("token")
    keyless = OneScan(node_document(QUICK, {"mask_keys": str(tmp_path / "nowhere")}))
    with pytest.raises(ConfigError, match=r"nowhere/server\.pub: expected the host's public key"):
        keyless.services().masks.open("token")


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the recorded sessions are not here")
def test_no_recorded_session_of_another_node_hangs_or_passes_for_a_success() -> None:
    paths = sorted(CAPTURES.glob("b*/*gadgetron_to_python.bin"))
    assert len(paths) > 50
    for path in paths:
        messages = converse(path.read_bytes())
        assert failed(messages), path
        assert len(messages) == 2, path


# What the shipped files say.


@pytest.mark.parametrize("name", SHIPPED)
def test_gadgetron_s_nodes_stand_in_front_and_our_node_repeats_none_of_them(name: str) -> None:
    root = ElementTree.fromstring(load(name))
    stream = root.find("stream")
    assert stream is not None
    assert [(node.tag, node.findtext("classname")) for node in stream] == [
        ("gadget", "NoiseAdjustGadget"),
        ("gadget", "AsymmetricEchoAdjustROGadget"),
        ("gadget", "RemoveROOversamplingGadget"),
        ("external", None),
    ]
    ours = parse(node_pipeline(node_document(load(name))))
    assert [type(gadget).__name__ for gadget in ours] == [
        "PredictMask",
        "AccumulateFrame",
        "CoilMaps",
        "Reconstruct",
        "ImageFinish",
    ]
    # our own host takes the same file and puts its equivalents in front
    assert parse(load(name))[-5:] == ours
    assert read_settings(node_document(load(name)))["mask_endpoint"] == "tcp://127.0.0.1:9004"


def test_the_variants_differ_in_mode_and_in_who_starts_the_node() -> None:
    modes = [parse(load(name))[2].mode for name in SHIPPED]  # type: ignore[attr-defined]
    assert modes == ["prospective", "retrospective", "prospective"]
    nodes = [ElementTree.fromstring(load(name)).find("stream/external") for name in SHIPPED]
    how = [node[0].tag for node in nodes if node is not None]
    assert how == ["execute", "execute", "connect"]
