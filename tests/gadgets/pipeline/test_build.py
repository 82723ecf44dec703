from pathlib import Path
from typing import Any

import pytest

from gadgets.errors import ConfigError
from gadgets.gadgetron.classes import GADGETRON_CLASSES
from gadgets.mrd.items import Acquisition, Image, Waveform
from gadgets.pipeline.build import load, parse, parse_stream
from gadgets.pipeline.catalogue import GADGETS
from gadgets.pipeline.chain import split
from gadgets.pipeline.readers_writers import LIBRARIES, READERS
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.gadgetron_images import Extract
from gadgets.steps.gadgetron_recon import SimpleRecon, TriggerFrames
from gadgets.steps.image_finish import ImageFinish
from gadgets.steps.noise_adjust import NoiseAdjust
from gadgets.steps.predict_mask import PredictMask
from gadgets.steps.readout import RemoveReadoutOversampling
from gadgets.steps.reconstruct import Reconstruct

SHIPPED = sorted(
    path.name for path in (Path(__file__).resolve().parents[3] / "xml_configs").glob("*.xml")
)
OURS = [name for name in SHIPPED if not name.startswith("default")]
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


def known_class(name: str) -> str:
    return f"<gadget><dll>gadgetron_mricore</dll><classname>{name}</classname></gadget>"


def problem(xml: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(xml)
    return str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_every_shipped_pipeline_loads_and_runs_from_lines_to_images(name: str) -> None:
    chain = parse(load(name))
    assert isinstance(chain[0], NoiseAdjust)
    assert isinstance(chain[-1], ImageFinish)
    assert ("adaptive" in name) == any(isinstance(g, PredictMask) for g in chain)


def test_the_pipelines_are_shipped() -> None:
    assert {
        "adaptive_modl.xml",
        "adaptive_modl_retrospective.xml",
        "adaptive_modl_shadow.xml",
        "cg_sense.xml",
        "default.xml",
        "default_measurement_dependencies.xml",
        "l1_wavelet.xml",
        "zero_filled.xml",
    } <= set(SHIPPED)


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


@pytest.mark.parametrize("name", OURS)
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
    (tmp_path / "other.xml").write_bytes(b"\xff")
    with pytest.raises(ConfigError) as caught:
        load("cg_sense.xml", tmp_path)
    assert str(caught.value) == "no pipeline 'cg_sense.xml', expected one of other.xml, site.xml"
    with pytest.raises(ConfigError, match=r"pipeline 'other\.xml' cannot be read: .*utf-8"):
        load("other.xml", tmp_path)


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
    names = "NoiseAdjustGadget", "AsymmetricEchoAdjustROGadget", "RemoveROOversamplingGadget"
    before = "".join(known_class(name) for name in names)
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
            "method is 'svd', expected one of modl, cg_sense, l1_wavelet, zero_filled",
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
        (
            pipeline(before=known_class("FFTGadget")),
            "gadgets not known to this host: 'FFTGadget'; it",
        ),
        (
            pipeline(before=known_class("NoiseAdjustGadget").replace("mricore", "mystery")),
            "libraries not known to this host: 'gadgetron_mystery'",
        ),
        (pipeline(before="<parallel/>"), "stream element <parallel>"),
        (pipeline(version="1"), "<version>2</version>"),
        ("<gadgetronStreamConfiguration/>", "the stream is empty"),
        ("<stream/>", "root <stream>"),
        ("<configuration><version>2</version></configuration>", "the stream is empty"),
        (
            pipeline(after=f"<external>{EXECUTE}<configuration>{FULL}</configuration></external>"),
            "<external> takes lines, but final images come to it",
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
    words = problem(pipeline(inner, before=known_class("FFTGadget"), io=io))
    for word in ("Sharpen", "svd", "big", "gain", "FFTGadget", "Spy"):
        assert word in words


def test_every_gadget_of_the_table_builds_with_its_defaults() -> None:
    chain = parse(pipeline("".join(f'<gadget class="{name}"/>' for name in GADGETS)))
    assert [type(gadget).__name__ for gadget in chain] == list(GADGETS)


LEGACY = """<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron">
  <reader><slot>1008</slot><dll>gadgetron_mricore</dll>
    <classname>GadgetIsmrmrdAcquisitionMessageReader</classname></reader>
  <writer><slot>1022</slot><dll>gadgetron_mricore</dll><classname>MRIImageWriter</classname>
  </writer>{}</gadgetronStreamConfiguration>"""
TO_IMAGES = (
    "RemoveROOversamplingGadget",
    "AcquisitionAccumulateTriggerGadget",
    "BucketToBufferGadget",
    "SimpleReconGadget",
    "ImageArraySplitGadget",
    "ExtractGadget",
    "ImageFinishGadget",
)


def version_2(nodes: str, io: str = "") -> str:
    return f"<configuration><version>2</version>{io}<stream>{nodes}</stream></configuration>"


def test_default_xml_is_gadgetron_s_chain_from_lines_to_magnitude_images() -> None:
    stream = parse_stream(load("default.xml"))
    assert stream.gadgets == (
        RemoveReadoutOversampling(),
        TriggerFrames(),
        SimpleRecon(),
        Extract(),
    )
    assert (stream.reads, stream.writes) == ({Acquisition, Waveform}, {Image})


def test_the_legacy_dialect_means_the_same_as_version_2() -> None:
    nodes = "".join(known_class(name) for name in TO_IMAGES)
    legacy = parse_stream(LEGACY.format(nodes))
    assert legacy.gadgets == parse(version_2(nodes))
    assert (legacy.reads, legacy.writes) == ({Acquisition}, {Image})


@pytest.mark.parametrize("spelling", ["attributes", "children"])
@pytest.mark.parametrize("dialect", [LEGACY.format, version_2])
def test_both_spellings_work_in_both_dialects(dialect: Any, spelling: str) -> None:
    prop = {
        "attributes": '<property name="extract_phase" value="true"/>',
        "children": "<property><name>extract_phase</name><value>true</value></property>",
    }[spelling]
    nodes = "".join(known_class(name) for name in TO_IMAGES)
    nodes = nodes.replace("ExtractGadget</classname>", f"ExtractGadget</classname>{prop}")
    assert parse(dialect(nodes))[-1] == Extract(extract_phase=True)


def named(name: str, *properties: tuple[str, str]) -> str:
    inner = "".join(f'<property name="{key}" value="{value}"/>' for key, value in properties)
    return f'<gadget class="Reconstruct"><name>{name}</name>{inner}</gadget>'


def test_a_reference_stands_for_the_property_of_another_gadget() -> None:
    inner = (
        named("a", ("lam", "lam@b"), ("n_iterations", "n_iterations@c"))
        + named("b", ("lam", "lam@c"))
        + named("c", ("lam", "0.25"), ("n_iterations", "7"))
    )
    first, second, third = parse(pipeline(inner))
    assert first == third == Reconstruct(lam=0.25, n_iterations=7)
    assert second == Reconstruct(lam=0.25)


def test_a_gadget_without_a_name_is_referred_to_by_its_class() -> None:
    inner = (
        '<gadget class="Reconstruct"><property name="method" value="cg_sense"/></gadget>'
        '<gadget class="Reconstruct"><name>b</name>'
        '<property name="method" value="method@Reconstruct"/></gadget>'
    )
    assert parse(pipeline(inner))[1] == Reconstruct(method="cg_sense")


def test_cycles_and_references_to_nothing_are_listed() -> None:
    words = problem(
        pipeline(named("a", ("lam", "lam@b"), ("method", "x@y")) + named("b", ("lam", "lam@a")))
    )
    assert "'lam@b' is a cycle" in words
    assert "'x@y' is a property that no gadget has" in words


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ('<property name="lam"/>', "'lam' must have a name and one value, got 0"),
        ('<property name="lam" value="1"><value>2</value></property>', "one value, got 2"),
        ("<property><value>2</value></property>", "'' must have a name"),
    ],
)
def test_a_property_that_cannot_be_read_is_refused(inner: str, words: str) -> None:
    assert words in problem(pipeline(f'<gadget class="Reconstruct">{inner}</gadget>'))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("NoiseAdjustGadget", "perform_noise_adjust", "false"),
        ("AcquisitionAccumulateTriggerGadget", "trigger_dimension", "n_acquisitions"),
        ("BucketToBufferGadget", "N_dimension", "average"),
        ("ExtractGadget", "force_positive", "true"),
        ("SimpleReconGadget", "scale", "2"),
        ("ExtractGadget", "extract_magnitude", "perhaps"),
    ],
)
def test_a_stock_property_that_would_change_an_image_is_never_passed_over(
    name: str, key: str, value: str
) -> None:
    names = ("NoiseAdjustGadget", *TO_IMAGES)
    prop = f'<property name="{key}" value="{value}"/>'
    nodes = "".join(known_class(one) for one in names)
    nodes = nodes.replace(f"{name}</classname>", f"{name}</classname>{prop}")
    words = problem(version_2(nodes))
    assert name in words
    assert key in words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (TO_IMAGES[1:], "AcquisitionAccumulateTriggerGadget takes cropped lines, but lines come"),
        (TO_IMAGES[:1], "the stream ends with cropped lines"),
        (TO_IMAGES[:2], "the stream ends with buckets"),
        (TO_IMAGES[:4] + TO_IMAGES[5:], "ExtractGadget takes complex images, but arrays come"),
        ((*TO_IMAGES, "NoiseAdjustGadget"), "NoiseAdjustGadget takes lines, but float images"),
    ],
)
def test_nodes_in_an_order_that_gives_no_image_are_refused(
    names: tuple[str, ...], words: str
) -> None:
    assert words in problem(version_2("".join(known_class(name) for name in names)))


def test_unknown_names_of_every_kind_are_listed_at_once() -> None:
    io = (
        "<readers><reader><classname>SpyReader</classname></reader></readers>"
        "<writers><writer><classname>DicomImageWriter</classname></writer></writers>"
    )
    nodes = (
        known_class("GrappaGadget")
        + known_class("MatlabGadget").replace("gadgetron_mricore", "gadgetron_matlab")
        + '<external><execute name="their_module" type="python"/></external><parallel/>'
    )
    words = problem(version_2(nodes, io))
    for word in (
        "SpyReader",
        "DicomImageWriter",
        "'GrappaGadget', 'MatlabGadget'",
        "gadgetron_matlab",
        "their_module",
        "<parallel>",
    ):
        assert word in words


def test_a_legacy_python_gadget_is_refused_by_its_name() -> None:
    node = known_class("PythonGadget").replace("gadgetron_mricore", "gadgetron_python")
    words = problem(LEGACY.format(node))
    assert "'PythonGadget'" in words
    assert "'gadgetron_python'" in words


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        (version_2(""), "the stream is empty"),
        (pipeline(""), "<external> has no <configuration> that lists gadgets"),
        (
            pipeline().replace(EXECUTE, ""),
            "<external> must hold <execute name=\"gadgets.external\" .../>, got 'none': this host "
            "runs no other modules",
        ),
        (
            pipeline('<gadget class="Reconstruct"><property name="lam" value="-1"/></gadget><a/>'),
            "gadget Reconstruct: lam is -1.0, expected at least 0; "
            "<a> in <configuration>, expected <gadget class=>",
        ),
        (
            version_2(
                "", f"<readers>{2 * '<reader><classname>Spy</classname></reader>'}</readers>"
            ),
            2 * f"unknown reader class 'Spy', expected one of {', '.join(READERS)}; "
            + "the stream is empty",
        ),
        (
            version_2(known_class("A") + known_class("B")),
            "gadgets not known to this host: 'A', 'B'; it knows "
            f"{', '.join(GADGETRON_CLASSES)}, and our own gadgets inside <external>",
        ),
        (
            version_2(
                known_class("NoiseAdjustGadget").replace("mricore", "x")
                + known_class("NoiseAdjustGadget").replace("mricore", "y")
            ),
            "libraries not known to this host: 'gadgetron_x', 'gadgetron_y'; it knows "
            f"{', '.join(LIBRARIES)}",
        ),
    ],
)
def test_a_refusal_says_what_is_expected(xml: str, sentence: str) -> None:
    assert problem(xml) == sentence
