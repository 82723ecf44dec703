"""The dialect of FIRE and python-ismrmrd-server."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from gadgets.errors import ConfigError
from gadgets.host.child_host import Address
from gadgets.host.fire_dialect import Request, request
from gadgets.mrd.items import Image
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Header,
    Message,
    Text,
    read_message,
    write_message,
)
from gadgets.mrd.sockets import SocketReader
from gadgets.pipeline.build import configure, load, parse
from gadgets.records.reader import read_record
from gadgets.steps.image_finish import SERIES_MASK
from gadgets.steps.image_finish import USHORT as USHORT_TYPE
from gadgets.steps.reconstruct import Reconstruct
from tests.gadgets.helpers.closed_loop import source


def parameters(**values: Any) -> str:
    return json.dumps({"version": "1.1.0", "parameters": values})


@pytest.mark.parametrize(
    ("text", "module", "rest"),
    [
        (None, "named", {}),
        ("just a remark", "named", {}),
        (parameters(), "named", {}),
        (parameters(config="other", customconfig=""), "other", {}),
        (parameters(config="other", customconfig="mine.xml"), "mine", {}),
        (parameters(lam=0.5, emit_mask_image=False), "named", {"lam": "0.5"}),
    ],
)
def test_the_json_s_names_come_before_the_configuration_s(
    text: str | None, module: str, rest: dict[str, str]
) -> None:
    got = request("named", text)
    assert got.module == module
    assert rest.items() <= got.parameters.items()


@pytest.mark.parametrize("text", ["{", '{"parameters": 3}', parameters(lam=[1])])
def test_json_that_cannot_be_meant_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"JSON text"):
        request("named", text)


def test_parameters_become_properties_of_the_one_gadget_that_has_them() -> None:
    xml, unknown = configure(
        load("cg_sense.xml"), {"lam": "0.125", "Reconstruct.n_iterations": "3"}
    )
    assert not unknown
    (got,) = (gadget for gadget in parse(xml) if isinstance(gadget, Reconstruct))
    assert (got.lam, got.n_iterations) == (0.125, 3)
    assert [type(g) for g in parse(xml)] == [type(g) for g in parse(load("cg_sense.xml"))]


def test_parameters_that_no_gadget_has_are_listed_at_once_and_the_others_set() -> None:
    values = {"sharpness": "1", "lam": "0.125", "speed": "2"}
    xml, unknown = configure(load("cg_sense.xml"), values)
    assert xml == configure(load("cg_sense.xml"), {"lam": "0.125"})[0]
    assert unknown.startswith("parameters that the pipeline does not know: sharpness, speed; it")
    assert "Reconstruct.lam" in unknown


def test_a_parameter_of_several_gadgets_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"n_calibration \(2 gadgets have it\)"):
        configure(load("adaptive_modl.xml"), {"n_calibration": "8"})


def test_no_parameters_leave_the_pipeline_as_it_is() -> None:
    assert configure(load("cg_sense.xml"), {}) == (load("cg_sense.xml"), "")
    assert request("cg_sense.xml", None) == Request(module="cg_sense")


def talk(address: Address, *messages: Message) -> list[Message]:
    """Say everything, with NULs counted in as this dialect does, and hear everything."""
    heard: list[Message] = []
    with socket.create_connection((address.host, address.port), timeout=60) as sock:
        for message in messages:
            sock.sendall(write_message(message))
        read = SocketReader(sock)
        while True:
            try:
                heard.append(read_message(read))
            except EOFError:
                return heard


def error(messages: list[Message]) -> str:
    assert [type(message) for message in messages] == [Text, Close]
    assert isinstance(messages[0], Text)
    return messages[0].text


@pytest.fixture
def scan() -> list[Message]:
    data = source(1)
    return [Header(data.header + b"\0"), *data.acquisitions, Close()]


def images(messages: list[Message]) -> list[Image]:
    assert isinstance(messages[-1], Close)
    assert not [message for message in messages if isinstance(message, Text)]
    return [message for message in messages if isinstance(message, Image)]


@pytest.mark.parametrize("config", [ConfigFile("zero_filled"), ConfigScript(b"zero_filled\0")])
def test_a_module_s_name_is_the_pipeline_of_that_name(
    address: Address, scan: list[Message], config: Message
) -> None:
    assert len(images(talk(address, config, *scan))) == 1


def test_json_after_the_header_replaces_name_and_properties(
    address: Address, scan: list[Message]
) -> None:
    text = Text(parameters(config="zero_filled", dtype="ushort") + "\0")
    (image,) = images(talk(address, ConfigFile("openrecon"), scan[0], text, *scan[1:]))
    assert int(image.header["data_type"]) == USHORT_TYPE
    assert int(image.header["image_series_index"]) != SERIES_MASK


def test_unknown_modules_are_refused_and_unknown_parameters_told(
    address: Address, scan: list[Message]
) -> None:
    assert "no pipeline 'invertcontrast.xml'" in error(
        talk(address, ConfigFile("invertcontrast"), *scan)
    )
    text = Text(parameters(sharpness=3))
    heard = talk(address, ConfigFile("zero_filled"), scan[0], text, *scan[1:])
    assert any(isinstance(message, Image) for message in heard)
    said = [message.text for message in heard if isinstance(message, Text)]
    assert said[0].startswith("WARNING: parameters that the pipeline does not know: sharpness;")


def test_a_client_does_not_learn_which_files_the_host_has(
    address: Address, scan: list[Message], tmp_path: Path
) -> None:
    (tmp_path / "there.json").write_text("{}")
    words = [
        error(
            talk(
                address,
                ConfigFile("adaptive_modl"),
                scan[0],
                Text(parameters(weights=str(tmp_path / name))),
                *scan[1:],
            )
        ).replace(name, "")
        for name in ("there", "absent")
    ]
    assert words[0] == words[1]
    assert "expected one of mnet, " in words[0]


def test_a_pipeline_that_a_client_writes_names_packaged_weights_alone(
    address: Address, scan: list[Message]
) -> None:
    xml, _ = configure(load("adaptive_modl.xml"), {"sampler": "/etc/passwd"})
    words = error(talk(address, ConfigScript(xml.encode()), *scan))
    assert "PredictMask.sampler is '/etc/passwd', expected one of mnet, " in words


@pytest.mark.parametrize("late", [{"dtype": "ushort"}, {"config": "cg_sense"}, {"mnet_hello": {}}])
def test_parameters_for_a_scan_that_has_begun_are_refused_not_passed_over(
    address: Address, scan: list[Message], late: dict[str, Any]
) -> None:
    text = Text(parameters(**late))
    words = error(talk(address, ConfigFile("zero_filled.xml"), scan[0], text, *scan[1:]))
    assert "too late" in words


def test_savedataonly_keeps_everything_and_makes_no_image(
    address: Address, records: Path, scan: list[Message]
) -> None:
    before = set(records.iterdir())
    header = Header(b"Dummy XML header\0")
    assert talk(address, ConfigFile("savedataonly"), header, *scan[1:]) == [Close()]
    (folder,) = set(records.iterdir()) - before
    kept = list(read_record(folder))
    assert [write_message(m) for m in kept] == [write_message(m) for m in (header, *scan[1:])]


def test_null_makes_no_image(address: Address, scan: list[Message]) -> None:
    assert talk(address, ConfigFile("null"), *scan) == [Close()]


def test_image_to_image_sessions_are_refused_clearly(address: Address, scan: list[Message]) -> None:
    (image,) = images(talk(address, ConfigFile("zero_filled"), *scan))
    header = Header(b"Dummy XML header\0")
    heard = talk(address, ConfigFile("zero_filled"), header, image, Close())
    assert "image-to-image" in error(heard)
