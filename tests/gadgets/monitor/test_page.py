"""The page in a real browser, beside a scan that runs."""

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mrd.messages import Text
from gadgets.scanner.client import MrdClient, PeerError
from gadgets.scanner.sequence import play
from tests.gadgets.helpers.browser import PROGRAM, Browser, browser
from tests.gadgets.helpers.closed_loop import N_KY, sequence, source

pytest.importorskip("uvicorn")
from gadgets.monitor.monitor import Monitor

PATIENT = "DOE^JANE"
CSS = (Path(__file__).parents[3] / "gadgets/monitor/page/page.css").read_text()
N_SLICES = 4
HEADLINE = "document.getElementById('headline').textContent"

real = pytest.mark.skipif(PROGRAM is None, reason="Debian's package chromium is not installed")


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Host, str]]:
    """A host of its own, and the address of its page."""
    monitor = Monitor(0)
    with Host(port=0, mask_endpoint="tcp://127.0.0.1:*", device="cpu", monitor=monitor) as host:
        host.wait_warm()
        yield host, f"http://127.0.0.1:{monitor.port}/"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(chromium: Browser, watched: tuple[Host, str]) -> Browser:
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.open(watched[1], 1400, 900)
    chromium.until("document.getElementById('host').textContent.startsWith('Ready.')")
    return chromium


def address(host: Host) -> Address:
    return Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)


def drawn(page: Browser) -> int:
    """How many different colours the plane has."""
    counting = """(() => { const c = document.getElementById('plane');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const seen = new Set(); for (let i = 0; i < d.length; i += 4)
          seen.add(`${d[i]},${d[i + 1]},${d[i + 2]},${d[i + 3]}`); return seen; })()"""
    colours = page.evaluate(f"[...{counting}]")
    wanted = {
        name: tuple(int(CSS_COLOURS[name][i : i + 2], 16) for i in (1, 3, 5))
        for name in ("track", "calibration", "arrived")
    }
    found = {tuple(map(int, colour.split(",")[:3])) for colour in colours}
    return sum(colour in found for colour in wanted.values())


CSS_COLOURS = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", CSS))


@real
def test_the_page_follows_a_scan_while_it_runs(page: Browser, watched: tuple[Host, str]) -> None:
    host, url = watched
    page.prefer("prefers-reduced-motion", "reduce")  # else what has just arrived is drawn brighter
    scan = source(N_SLICES)
    patient = f"<subjectInformation><patientName>{PATIENT}</patientName></subjectInformation>"
    start = scan.header.index(b">", scan.header.index(b"<ismrmrdHeader")) + 1
    named = replace(scan, header=scan.header[:start] + patient.encode() + scan.header[start:])
    seen = threading.Event()

    def on_slice(*_: object) -> None:  # the first is over: wait until somebody has seen it
        assert seen.wait(120)

    patiently = sequence(deadline_ms=60_000.0)
    results: list[object] = []
    scanner = threading.Thread(
        target=lambda: results.extend(
            play(named, patiently, address(host), "adaptive_modl.xml", on_slice)
        )
    )
    scanner.start()
    page.until("document.getElementById('state').textContent === 'Predicted mask, slice 0'")
    page.until("!document.getElementById('image').hidden")
    page.until("document.getElementById('caption').textContent.startsWith('Slice 0, made in')")
    assert page.text("h1") == f"1 of {N_SLICES} slices"
    assert re.match(r"adaptive_modl, since \d\d:\d\d, 1 image$", page.text("#subline"))
    assert re.match(r"Mask in [\d.]+ m?s of 60000 ms\. \w.*\.$", page.text("#why"))
    assert drawn(page) == 3
    assert page.evaluate(
        "(async () => { const i = document.getElementById('image'); await i.decode(); "
        "return [i.naturalWidth, i.naturalHeight]; })()"
    ) == [48, N_KY]
    seen.set()
    scanner.join(120)
    page.until(f"{HEADLINE}.startsWith('Done')")
    assert page.text("h1") == f"Done, {N_SLICES} of {N_SLICES} slices"
    page.evaluate("document.getElementById('words').open = true")
    page.until("document.getElementById('rows').children.length === 4")
    assert page.text("#rows tr:nth-child(2)").startswith(f"1\t{N_KY // 2} of {N_KY // 2}\t")
    assert PATIENT not in page.evaluate("document.documentElement.outerHTML")
    page.prefer("prefers-reduced-motion", "no-preference")
    assert page.complaints == []
    assert {address.partition("/image/")[0] for address in page.requests} <= {
        url + name for name in ("", "page.css", "page.js", "plane.js", "events")
    } | {url.rstrip("/")}


@real
def test_a_fallback_and_why_are_told_on_the_page_and_to_who_only_listens(
    page: Browser, watched: tuple[Host, str]
) -> None:
    hurried = sequence(seed=3, deadline_ms=0.01)
    play(source(1), hurried, address(watched[0]), "adaptive_modl.xml")
    page.until(f"{HEADLINE} === 'Done, 1 of 1 slice'")
    assert page.text("#state") == "Fallback mask, slice 0"
    assert re.match(r"The mask took .* ms; the deadline is 0.01 ms\.$", page.text("#why"))
    assert page.evaluate("document.getElementById('news').textContent") == (
        "Scan done, 1 of 1 slice. Fallback mask in slice 0"
    )


@real
def test_an_error_is_told_in_words_and_the_next_scan_followed(
    page: Browser, watched: tuple[Host, str]
) -> None:
    scan = source(1)
    with MrdClient("127.0.0.1", watched[0].port) as client:
        client.start("no_such.xml", scan.header)
        with pytest.raises(PeerError):
            client.finish()
    page.until(f"{HEADLINE} === 'Failed'")
    assert page.text("#alert").startswith("ConfigError: ")
    assert "no_such.xml" in page.text("#alert")
    with MrdClient("127.0.0.1", watched[0].port) as client:
        client.start("zero_filled.xml", scan.header)
        client.send_all(scan.acquisitions)
        client.send(Text(PATIENT))
        assert client.finish()
    page.until(f"{HEADLINE} === 'Done, 1 of 1 slice'")
    assert page.text("#alert") == ""
    assert PATIENT not in page.evaluate("document.documentElement.outerHTML")


@real
def test_keys_and_a_screen_reader_find_their_way(page: Browser, watched: tuple[Host, str]) -> None:
    play(source(3), sequence(deadline_ms=60_000.0), address(watched[0]), "adaptive_modl.xml")
    page.until(f"{HEADLINE} === 'Done, 3 of 3 slices'")
    page.until("document.querySelectorAll('#strip button').length === 3")
    nodes = page.accessibility()
    named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes}
    roles = {role for role, _ in named}
    assert {"banner", "main", "contentinfo", "alert", "status"} <= roles
    assert ("heading", "Lines of k-space, slice by slice") in named
    (plane,) = [name for role, name in named if role in ("image", "img") and "arrived" in name]
    assert "slice 2: 32 lines, Predicted mask" in plane
    assert all(name for role, name in named if role in ("button", "image", "img"))
    for _ in range(20):
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Show slice 1":
            break
        page.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.until("document.getElementById('caption').textContent.startsWith('Slice 1,')")
    assert page.text("#state") == "Predicted mask, slice 1"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("Escape")
    page.until("document.getElementById('caption').textContent.startsWith('Slice 2,')")
    assert page.evaluate("document.getElementById('follow').hidden")


@real
@pytest.mark.parametrize(("width", "height"), [(1400, 900), (800, 1280), (400, 860)])
def test_nothing_is_cut_off_or_too_small_to_touch(
    page: Browser, watched: tuple[Host, str], width: int, height: int
) -> None:
    play(source(3), sequence(deadline_ms=60_000.0), address(watched[0]), "adaptive_modl.xml")
    page.resize(width, height, touch=True)
    page.until(f"{HEADLINE} === 'Done, 3 of 3 slices'")
    page.until("document.querySelectorAll('#strip button').length === 3")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, summary')].filter((e) => e.offsetParent)"
        ".map((e) => e.getBoundingClientRect()).map((r) => Math.min(r.width, r.height))"
    )
    assert len(sizes) >= 4
    assert min(sizes) >= 44
    least = 28 if width >= 800 else 24  # px: read from two metres at full width
    for selector in ("h1", "#state"):
        size = page.evaluate(
            f"parseFloat(getComputedStyle(document.querySelector('{selector}')).fontSize)"
        )
        assert size >= least


@real
def test_nothing_moves_for_who_does_not_want_it(page: Browser) -> None:
    page.prefer("prefers-reduced-motion", "reduce")
    still = page.evaluate("getComputedStyle(document.getElementById('image')).animationName")
    page.prefer("prefers-reduced-motion", "no-preference")
    moving = page.evaluate("getComputedStyle(document.getElementById('image')).animationName")
    assert (still, moving) == ("none", "come")


@real
def test_a_host_that_is_gone_is_told_and_what_stands_there_is_marked_old(
    chromium: Browser,
) -> None:
    monitor = Monitor(0)
    monitor.start(trouble=str, unready=str, metrics=bytes, queued=lambda: 0.0)
    chromium.open(f"http://127.0.0.1:{monitor.port}/", 1400, 900)
    chromium.until("document.getElementById('host').textContent.startsWith('Ready.')")
    monitor.close()
    chromium.until("document.body.classList.contains('stale')")
    assert "does not answer" in chromium.text("#alert")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(CSS_COLOURS[one]), luminance(CSS_COLOURS[other])))[::-1]
    return (light + 0.05) / (dark + 0.05)


def test_text_and_lines_stand_out() -> None:
    """WCAG 2.2: 7 to 1 for text that is read from afar, 3 to 1 for what is drawn."""
    for text in ("ink", "soft", "arrived", "fallback", "bad"):
        assert contrast(text, "ground") >= 7, text
    for drawn_ in ("arrived", "calibration", "fallback"):
        assert contrast(drawn_, "track") >= 3, drawn_
