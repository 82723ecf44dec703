"""Masks in the MRD stream: what the profile looks like, and that nobody gets one unasked."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from gadgets.errors import ProtocolError
from gadgets.host.child_host import Address
from gadgets.mask.codec import MAGIC, Codec
from gadgets.mask.in_band import in_band_link, pack_mask, read_hello
from gadgets.mask.messages import IN_BAND_HELLO, Hello, MaskMessage, Scope
from gadgets.mask.recon_end import Unpaired
from gadgets.mrd.geometry import SCAN_TOKEN
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_xml import with_user_parameter
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, ConfigFile, ConfigScript, Feedback, Header, Message, Text
from gadgets.pipeline.build import load
from tests.gadgets.helpers.closed_loop import N_KY, source
from tests.gadgets.helpers.peer import Peer, connected

CALIBRATION = list(range(24, 40))
FALLBACK = list(range(16, 48))
ASKED: dict[str, Any] = {
    "scan_token": "ours",
    "ky_min": 0,
    "ky_max": N_KY - 1,
    "center": N_KY // 2,
    "acquirable": list(range(N_KY)),
    "calibration": CALIBRATION,
    "n_lines": len(FALLBACK),
    "fallback": FALLBACK,
    "deadline_ms": 1000,
}
MASK = MaskMessage(
    message_id="6f1e0c52-7d0b-4a44-9a1e-2f3c5d7e9b10",
    scan_token="ours",
    sequence_no=1,
    scope=Scope(slice=2),
    ky_min=3,
    ky_max=12,
    counters=(3, 5, 12),
    model="0123",
    reason="predicted",
)
IN_BAND = load("adaptive_modl.xml").replace(
    '<property name="mode" value="prospective"/>',
    '<property name="mode" value="prospective"/><property name="feedback" value="mrd1028"/>',
)
DATA = source(2)


def hello(**changes: Any) -> str:
    return json.dumps({**ASKED, **changes})


def test_a_hello_needs_only_what_the_sequence_alone_knows() -> None:
    read = read_hello(hello(), "theirs")
    assert read == Hello(
        scan_token="ours",
        ky_min=0,
        ky_max=63,
        center=32,
        acquirable=tuple(range(64)),
        calibration=tuple(CALIBRATION),
        n_lines=32,
        fallback=tuple(FALLBACK),
        deadline_ms=1000,
    )
    without = {key: value for key, value in ASKED.items() if key != "scan_token"}
    assert read_hello(json.dumps(without), "theirs").scan_token == "theirs"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", "a JSON object"),
        ("[" * 100000, "nested"),
        (hello(n_lines=31), "budget"),
        (hello(fallback=[*FALLBACK[1:], 16, 16]), "fallback: a counter is there twice"),
        (hello(fallback=[*FALLBACK[1:], 99]), "counter 99 is outside"),
        (hello(fallback="all"), "fallback: expected a list"),
        (hello(acquirable=[True] * 3), "acquirable: expected a list"),
        (hello(acquirable=None), "acquirable: expected a list"),
        (hello(ky_max=10**9), "ky_max: expected a counter"),
        (hello(ky_min=-1), "ky_min: expected a counter"),
        (hello(ky_min=60, ky_max=2), "ky_min is 60, above ky_max, 2"),
        (hello(deadline_ms=float("nan")), "NaN"),
        (hello(surprise=1), "additionalProperties"),
        (hello(kind="mask"), "malformed"),
        (hello(role="recon"), "malformed"),
        (hello(scan_token="two words"), "scan_token"),
    ],
)
def test_a_hello_that_cannot_be_is_refused_with_its_fault(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_hello(text, "theirs")


def test_a_mask_is_message_1028_with_header_and_bitmap_as_on_the_mask_channel() -> None:
    message = pack_mask(MASK)
    assert message.name == "AdaptiveMask"
    (size,) = struct.unpack("<I", message.data[:4])
    header, payload = json.loads(message.data[4 : 4 + size]), message.data[4 + size :]
    assert payload == bytes([0b101, 0b10])  # bit k is line 3 + k
    assert header["schema"] == "adaptive-mask/1"
    assert (header["kind"], header["n_lines"], header["scope"]["slice"]) == ("mask", 3, 2)
    assert mask_in(message) == MASK


def test_without_a_hello_the_link_sends_nothing_and_says_why() -> None:
    sent: list[Feedback] = []
    for text, words in ((None, "the client sent no mnet_hello"), ("{", "mnet_hello: ")):
        link = in_band_link(text, "token", sent.append)
        assert link.hello() is None
        with pytest.raises(Unpaired, match=words):
            link.send(Scope(slice=0), FALLBACK, model="", reason="")
        link.close()
    assert not sent


def test_a_stream_that_does_not_take_masks_leaves_the_scan_without() -> None:
    def refuse(message: Feedback) -> None:
        raise ProtocolError("Feedback is not taken from an external node")

    link = in_band_link(hello(), None, refuse)
    with pytest.raises(Unpaired, match="not taken from an external node"):
        link.send(Scope(slice=0), FALLBACK, model="", reason="")


def test_a_mask_that_breaks_the_hello_s_rules_is_not_sent() -> None:
    sent: list[Feedback] = []
    link = in_band_link(hello(), None, sent.append)
    with pytest.raises(ValueError, match="calibration missing"):
        link.send(Scope(slice=0), range(32), model="", reason="")
    link.send(Scope(slice=0), FALLBACK, model="m", reason="r")
    (mask,) = map(mask_in, sent)
    assert (mask.scan_token, mask.counters) == ("ours", tuple(FALLBACK))


def mask_in(message: Feedback) -> MaskMessage:
    """Read a mask from the MRD stream as a sequence does: u32 length, header, payload."""
    (size,) = struct.unpack_from("<I", message.data)
    rest = bytes(message.data[4:])
    mask = Codec().decode([MAGIC, rest[:size], rest[size:]])
    assert isinstance(mask, MaskMessage)
    return mask


def lines(slice_: int, counters: list[int], *, last: bool = False) -> Iterator[Acquisition]:
    of_slice = {
        int(line.header["kspace_encode_step_1"]): line
        for line in DATA.acquisitions
        if isinstance(line, Acquisition) and int(line.header["slice"]) == slice_
    }
    for counter in counters:
        line = of_slice[counter]
        header = line.header.copy()
        header["flags"] = Flag.LAST_IN_SLICE if last and counter == counters[-1] else 0
        yield Acquisition(header=header, data=line.data)


def header(asked: str | None) -> Header:
    return Header(
        DATA.header if asked is None else with_user_parameter(DATA.header, IN_BAND_HELLO, asked)
    )


def adaptive_slice(peer: Peer, slice_: int) -> set[int]:
    """Measure a slice as its mask says, which must come after the last calibration line."""
    peer.say(*lines(slice_, CALIBRATION))
    message = peer.hear()
    while isinstance(message, Image):  # of the slice before
        message = peer.hear()
    assert isinstance(message, Feedback)
    mask = mask_in(message)
    assert (mask.scan_token, mask.scope) == ("ours", Scope(slice=slice_))
    assert len(mask.counters) == len(FALLBACK)
    assert set(CALIBRATION) < set(mask.counters)
    peer.say(*lines(slice_, sorted(set(mask.counters) - set(CALIBRATION)), last=True))
    return set(mask.counters)


def images(messages: list[Message]) -> list[Image]:
    assert not [m for m in messages if isinstance(m, Text) and "ERROR" in m.text]
    assert isinstance(messages[-1], Close)
    return [m for m in messages if isinstance(m, Image) and m.header["image_series_index"] < 20]


def test_a_scan_closes_the_loop_on_one_connection(address: Address) -> None:
    with connected(address) as peer:
        peer.say(ConfigScript(IN_BAND.encode()), header(hello()))
        masks = [adaptive_slice(peer, slice_) for slice_ in (0, 1)]
        peer.say(Close())
        rest = images(peer.rest())
    assert all(mask != set(FALLBACK) for mask in masks)
    assert {image.meta["mnet_fallback"] for image in rest} == {"false"}
    assert rest


def test_a_sequence_that_takes_its_fallback_gets_an_image_that_says_so(address: Address) -> None:
    with connected(address) as peer:
        peer.say(ConfigScript(IN_BAND.encode()), header(hello()))
        adaptive = sorted(set(FALLBACK) - set(CALIBRATION))
        peer.say(*lines(0, CALIBRATION), *lines(0, adaptive, last=True), Close())
        messages = peer.rest()
    assert sum(isinstance(m, Feedback) for m in messages) == 1
    (image,) = images(messages)
    assert image.meta["mnet_fallback"] == "true"


def test_fire_s_json_opts_in_too(address: Address) -> None:
    parameters = {"feedback": "mrd1028", IN_BAND_HELLO: ASKED}
    text = json.dumps({"version": "1.1.0", "parameters": parameters})
    with connected(address) as peer:
        peer.say(ConfigFile("adaptive_modl"), header(None), Text(text))
        adaptive_slice(peer, 0)
        peer.say(Close())
        assert len(images(peer.rest())) == 1


NEVER = {
    "neither": (load("adaptive_modl.xml"), None),
    "the client alone": (load("adaptive_modl.xml"), hello()),
    "the pipeline alone": (IN_BAND, None),
    "a hello that cannot be read": (IN_BAND, "{"),
    "a hello that the header contradicts": (IN_BAND, hello(center=31)),
    "a shadow": (IN_BAND.replace("prospective", "shadow"), hello()),
    "retrospective": (IN_BAND.replace("prospective", "retrospective"), hello()),
    "default.xml": (load("default.xml"), hello()),
    "cg_sense.xml": (load("cg_sense.xml"), hello()),
}


@pytest.mark.parametrize("who", NEVER)
def test_1028_is_never_sent_unless_pipeline_and_client_both_ask(address: Address, who: str) -> None:
    xml, asked = NEVER[who]
    with connected(address) as peer:
        peer.say(ConfigScript(xml.encode()), header(asked))
        for slice_ in (0, 1):
            peer.say(*lines(slice_, list(range(N_KY)), last=True))
        peer.say(Close())
        messages = peer.rest()
    assert {type(m) for m in messages} - {Text} == {Image, Close}
    assert len(images(messages)) == 2


def test_a_scan_whose_hello_cannot_be_read_goes_on_and_its_images_say_why(
    address: Address,
) -> None:
    with connected(address) as peer:
        peer.say(ConfigScript(IN_BAND.encode()), header("{"))
        peer.say(*lines(0, list(range(N_KY)), last=True), Close())
        (image,) = images(peer.rest())
    assert "mnet_hello" in image.meta["mnet_reason"]


def test_a_token_in_the_header_serves_where_the_hello_has_none(address: Address) -> None:
    without = {key: value for key, value in ASKED.items() if key != "scan_token"}
    xml = with_user_parameter(DATA.header, IN_BAND_HELLO, json.dumps(without))
    with connected(address) as peer:
        peer.say(ConfigScript(IN_BAND.encode()))
        peer.say(Header(with_user_parameter(xml, SCAN_TOKEN, "in-header")))
        peer.say(*lines(0, CALIBRATION))
        message = peer.hear()
        assert isinstance(message, Feedback)
        assert mask_in(message).scan_token == "in-header"
