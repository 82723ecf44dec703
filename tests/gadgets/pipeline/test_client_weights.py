"""Which weights a client may name, and how many a process keeps."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gadgets.errors import ConfigError
from gadgets.pipeline.build import configure, load, parse
from gadgets.pipeline.catalogue import GADGETS, step
from gadgets.pipeline.client_weights import check_weights, packaged, weights_properties
from gadgets.pipeline.models import MOST, Models
from mnet.recon.modl import MoDL
from mnet.weight_files import save_weights

ADAPTIVE = load("adaptive_modl.xml")


def chosen(**parameters: str) -> None:
    check_weights(parse(configure(ADAPTIVE, parameters)[0]), parse(ADAPTIVE))


def test_every_property_that_names_weights_is_known_as_one() -> None:
    found = {f"{name}.{one}" for name in GADGETS for one in weights_properties(step(name))}
    assert found == {"PredictMask.sampler", "Reconstruct.weights"}
    texts = {
        f"{name}.{one.name}"
        for name in GADGETS
        for one in dataclasses.fields(step(name))
        if one.type in (str, "str")
    }
    assert texts == {"ImageFinish.output"}, "does it name a file? then it has to be checked"


def test_packaged_names_are_taken() -> None:
    for name in ("mnet", "mnet_experts", "mnet_select"):
        chosen(sampler=name)
    assert "modl" in packaged()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "./modl", "../weights/modl", "modl/", "modl.json", ""]
)
@pytest.mark.parametrize("key", ["sampler", "weights"])
def test_a_path_is_refused_in_words_that_do_not_depend_on_what_is_there(
    key: str, name: str
) -> None:
    with pytest.raises(ConfigError) as error:
        chosen(**{key: name})
    assert "expected one of mnet, mnet_experts, mnet_select, modl: a client" in str(error.value)


def test_what_the_host_s_own_pipeline_names_may_stay_and_be_said_again(tmp_path: Path) -> None:
    mine = str(tmp_path / "mine")
    own, _ = configure(ADAPTIVE, {"weights": mine})
    for parameters in ({"sampler": "mnet"}, {"weights": mine}):
        check_weights(parse(configure(own, parameters)[0]), parse(own))
    with pytest.raises(ConfigError, match="expected one of"):
        check_weights(parse(configure(own, {"weights": mine + "2"})[0]), parse(own))


def test_a_process_keeps_a_bounded_number_of_models(tmp_path: Path) -> None:
    models = Models()
    for number in range(MOST + 3):
        save_weights(MoDL(4, 1, 2), tmp_path / str(number), {})
    first = models.get(str(tmp_path / "0"))
    for number in range(MOST + 3):
        models.get(str(tmp_path / str(number)))
        assert models.get(str(tmp_path / "0")) is first, "what is in use stays"
    assert len(models._loaded) == MOST


@pytest.mark.parametrize(
    "spelling",
    [
        '<property name="lam" value="1"/>',
        "<property><name> lam </name><value>1</value></property>",
    ],
)
def test_what_a_client_sets_takes_the_place_of_what_stood_there(spelling: str) -> None:
    node = (
        f'<gadget class="Reconstruct"><property/>{spelling}<property name="n" value="2"/></gadget>'
    )
    xml = (
        '<configuration><version>2</version><stream><external><execute name="gadgets.external"/>'
        f"<configuration>{node}</configuration></external></stream></configuration>"
    )
    found, unknown = configure(xml, {"lam": "3"})
    assert unknown == ""
    properties = [dict(one.attrib) for one in ElementTree.fromstring(found).iter("property")]
    assert properties == [{}, {"name": "n", "value": "2"}, {"name": "lam", "value": "3"}]


def test_a_parameter_of_several_gadgets_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError) as error:
        configure(ADAPTIVE, {"n_calibration": "24", "strange": "1"})
    said, _, known = str(error.value).partition("; known: ")
    assert said == "parameters that do not belong to one gadget: n_calibration (2 gadgets have it)"
    assert {"AccumulateFrame.n_calibration", "PredictMask.n_calibration"} <= {*known.split(", ")}


def test_parameters_in_front_of_a_gadget_without_a_class_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown gadget class ''"):
        configure(ADAPTIVE.replace('class="ImageFinish"', ""), {"weights": "modl"})
