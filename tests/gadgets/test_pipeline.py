from pathlib import Path

import pytest

import gadgets
from gadgets.accumulate import AccumulateFrame
from gadgets.errors import ConfigError
from gadgets.image_finish import ImageFinish
from gadgets.noise_adjust import NoiseAdjust
from gadgets.pipeline import GADGETS, STOCK, load, parse, split
from gadgets.predict_mask import PredictMask
from gadgets.readout import RemoveReadoutOversampling
from gadgets.reconstruct import Reconstruct

SHIPPED = sorted(
    path.name for path in (Path(gadgets.__file__).parents[1] / "xml_configs").glob("*.xml")
)
EXECUTE = '<execute name="gadgets.external" target="pipeline" type="python"/>'
FULL = '<gadget class="NoiseAdjust"/>'


def pipeline(
    inner: str = FULL, *, before: str = "", after: str = "", version: str = "2", io: str = ""
) -> str:
    return (
        f"<configuration><version>{version}</version>{io}<stream>{before}"
        f"<external>{EXECUTE}<configuration>{inner}</configuration></external>{after}"
        "</stream></configuration>"
    )


def stock(name: str) -> str:
    return f"<gadget><dll>gadgetron_mricore</dll><classname>{name}</classname></gadget>"


def problem(xml: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(xml)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pipeline_loads_and_runs_from_lines_to_images(name: str) -> None:
    chain = parse(load(name))
    assert isinstance(chain[0], NoiseAdjust)
    assert isinstance(chain[-1], ImageFinish)
    assert name.startswith("adaptive") == any(isinstance(g, PredictMask) for g in chain)


def test_the_five_pipelines_are_shipped() -> None:
    assert SHIPPED == [
        "adaptive_modl.xml",
        "adaptive_modl_retrospective.xml",
        "adaptive_modl_shadow.xml",
        "cg_sense.xml",
        "zero_filled.xml",
    ]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("adaptive_modl.xml", "prospective"),
        ("adaptive_modl_retrospective.xml", "retrospective"),
        ("adaptive_modl_shadow.xml", "shadow"),
    ],
)
def test_a_pipeline_s_mask_mode_is_that_of_its_name(name: str, mode: str) -> None:
    (predict,) = (g for g in parse(load(name)) if isinstance(g, PredictMask))
    assert predict.mode == mode


@pytest.mark.parametrize("name", SHIPPED)
def test_the_worker_gets_maps_and_reconstruction_and_the_front_the_rest(name: str) -> None:
    front, heavy = split(parse(load(name)))
    assert [type(g).__name__ for g in heavy] == ["CoilMaps", "Reconstruct", "ImageFinish"]
    assert isinstance(front[-1], AccumulateFrame)


def test_a_pipeline_without_heavy_gadgets_stays_in_the_front() -> None:
    chain = parse(pipeline())
    assert split(chain) == (chain, ())


@pytest.mark.parametrize(
    "name",
    [
        "../xml_configs/cg_sense.xml",
        "/etc/passwd",
        "cg_sense.xml/",
        "./cg_sense.xml",
        "CG_SENSE.XML",
        "cg_sense.xml\0",
        "cg_sense",
        "__init__.py",
        "*.xml",
        "",
    ],
)
def test_only_names_of_the_folder_load(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no pipeline .*expected one of .*cg_sense\.xml"):
        load(name)


def test_the_host_can_have_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "site.xml").write_text(pipeline())
    assert load("site.xml", tmp_path) == pipeline()
    with pytest.raises(ConfigError, match=r"site\.xml"):
        load("cg_sense.xml", tmp_path)


def test_both_spellings_of_a_property_mean_the_same() -> None:
    attributes = (
        '<gadget class="Reconstruct"><property name="method" value="cg_sense"/>'
        '<property name="lam" value="0.5"/></gadget>'
    )
    children = (
        '<gadget class="Reconstruct"><property><name> method </name><value>\n cg_sense\n</value>'
        "</property><property><name>lam</name><value>0.5</value></property></gadget>"
    )
    expected = (Reconstruct(method="cg_sense", lam=0.5),)
    assert parse(pipeline(attributes)) == parse(pipeline(children)) == expected


def test_stock_nodes_become_ours_and_the_echo_node_needs_none() -> None:
    before = "".join(stock(name) for name in STOCK)
    assert parse(pipeline('<gadget class="AccumulateFrame"/>', before=before)) == (
        NoiseAdjust(),
        RemoveReadoutOversampling(),
        AccumulateFrame(),
    )


def test_a_connect_node_names_the_same_pipeline() -> None:
    xml = pipeline().replace(EXECUTE, '<connect port="9003"/>')
    assert parse(xml) == (NoiseAdjust(),)


def test_bytes_and_text_with_an_encoding_and_comments_are_read() -> None:
    xml = '<?xml version="1.0" encoding="UTF-8"?><!-- Größe -->' + pipeline(f"<!-- -->{FULL}")
    assert parse(xml) == parse(xml.encode()) == (NoiseAdjust(),)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (pipeline('<gadget class="Sharpen"/>'), "unknown gadget class 'Sharpen', expected one of"),
        (pipeline("<gadget/>"), "unknown gadget class ''"),
        (
            pipeline('<gadget class="NoiseAdjust"><property name="gain" value="2"/></gadget>'),
            "gadget NoiseAdjust has no property gain",
        ),
        (
            pipeline('<gadget class="Reconstruct"><property name="heavy" value="1"/></gadget>'),
            "has no property heavy",
        ),
        (
            pipeline('<gadget class="Reconstruct"><property name="method" value="svd"/></gadget>'),
            "method is 'svd', expected one of modl, cg_sense, zero_filled",
        ),
        (
            pipeline('<gadget class="Reconstruct"><property name="lam" value="big"/></gadget>'),
            "lam is 'big', expected float",
        ),
        (
            pipeline(
                '<gadget class="PredictMask"><property name="acceleration" value="nan"/></gadget>'
            ),
            "acceleration is 'nan', expected a finite number",
        ),
        (
            pipeline(
                '<gadget class="PredictMask"><property name="acceleration" value="0.5"/></gadget>'
            ),
            "PredictMask: acceleration is 0.5, expected 1 or more",
        ),
        (
            pipeline('<gadget class="Reconstruct"><property name="lam" value="-1"/></gadget>'),
            "lam is -1.0",
        ),
        (
            pipeline(
                '<gadget class="Reconstruct"><property name="n_iterations" value="2.5"/></gadget>'
            ),
            "n_iterations is '2.5', expected int",
        ),
        (
            pipeline(
                '<gadget class="ImageFinish"><property name="emit_mask_image" value="1"/></gadget>'
            ),
            "emit_mask_image is '1', expected true or false",
        ),
        (
            pipeline(
                '<gadget class="ImageFinish"><property name="output" value="complex"/>'
                '<property name="dtype" value="ushort"/></gadget>'
            ),
            "complex output has no dtype ushort",
        ),
        (
            pipeline(
                '<gadget class="AccumulateFrame"><property name="n_calibration" value="2"/>'
                "</gadget>"
            ),
            "n_calibration is 2, expected 4 or more",
        ),
        (
            pipeline(
                '<gadget class="Reconstruct"><property name="lam" value="1"/>'
                '<property name="lam" value="2"/></gadget>'
            ),
            "property lam is there twice",
        ),
        (pipeline("<node/>"), "<node> in <configuration>"),
        (pipeline(""), "no <configuration> that lists gadgets"),
        (pipeline().replace(EXECUTE, ""), "must hold <execute"),
        (pipeline().replace("gadgets.external", "os.system"), "must hold <execute"),
        (pipeline(before=stock("FFTGadget")), "gadget 'FFTGadget' is not known to this host"),
        (pipeline(before="<parallel/>"), "stream element <parallel>"),
        (pipeline(version="1"), "<version>2</version>"),
        ("<gadgetronStreamConfiguration/>", "root <gadgetronStreamConfiguration>"),
        ("<configuration><version>2</version></configuration>", "0 <external> nodes"),
        (
            pipeline(after=f"<external>{EXECUTE}<configuration>{FULL}</configuration></external>"),
            "2 <external> nodes, expected exactly one",
        ),
        (
            pipeline(io="<readers><reader><classname>Spy</classname></reader></readers>"),
            "unknown reader class 'Spy'",
        ),
        (
            pipeline(io="<writers><writer><classname>Spy</classname></writer></writers>"),
            "unknown writer class 'Spy'",
        ),
        ("", "not well-formed"),
        ("<configuration>", "not well-formed"),
        (b"\xff\xfe\x00", "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><configuration/>', "not well-formed"),
        (b'<?xml version="1.0" encoding="utf-32"?><configuration/>', "not well-formed"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(xml: str | bytes, words: str) -> None:
    assert words in problem(xml)


def test_all_problems_are_listed_at_once() -> None:
    inner = (
        '<gadget class="Sharpen"/>'
        '<gadget class="Reconstruct"><property name="method" value="svd"/>'
        '<property name="lam" value="big"/><property name="gain" value="2"/></gadget>'
    )
    io = "<readers><reader><classname>Spy</classname></reader></readers>"
    words = problem(pipeline(inner, before=stock("FFTGadget"), io=io))
    for word in ("Sharpen", "svd", "big", "gain", "FFTGadget", "Spy"):
        assert word in words


def test_every_gadget_of_the_table_builds_with_its_defaults() -> None:
    chain = parse(pipeline("".join(f'<gadget class="{name}"/>' for name in GADGETS)))
    assert [type(gadget).__name__ for gadget in chain] == list(GADGETS)
