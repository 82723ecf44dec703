"""Lines that are lost on the way to the host: the client and the image's meta say it."""

from dataclasses import replace

from gadgets.host.child_host import Address
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Acquisition, Image
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.closed_loop import N_KY, source

SCAN = source(2)
FIRST, SECOND = SCAN.acquisitions[:N_KY], SCAN.acquisitions[N_KY:]


def sent(address: Address, lines: list[Acquisition]) -> tuple[list[Image], str]:
    with MrdClient(address.host, address.port) as client:
        client.start("zero_filled.xml", SCAN.header)
        client.send_all(lines)
        return client.finish(), "; ".join(client.said)


def flagged(line: Acquisition, flags: int) -> Acquisition:
    header = line.header.copy()
    header["flags"] = flags
    return replace(line, header=header)


def test_a_whole_scan_is_told_nothing(address: Address) -> None:
    images, told = sent(address, SCAN.acquisitions)
    assert len(images) == 2
    assert told == ""
    assert not any("mnet_lines_lost" in image.meta for image in images)


def test_where_the_last_line_is_lost_the_client_is_told_that_no_image_comes(
    address: Address,
) -> None:
    images, told = sent(address, [*FIRST, *SECOND[:-1]])
    assert [int(image.header["slice"]) for image in images] == [0]
    assert "slice 1, contrast 0, repetition 0: no image, 63 lines came" in told


def test_where_other_lines_are_lost_client_and_image_say_so(address: Address) -> None:
    images, told = sent(address, [*FIRST, *SECOND[:20], *SECOND[22:]])
    assert [image.meta.get("mnet_lines_lost") for image in images] == [None, "2"]
    assert "seems to lack 2 lines" in images[1].meta["ImageComments"]
    assert told == "WARNING: 2 lines that images seem to lack"


def test_where_the_last_line_is_flagged_too_early_client_and_image_say_so(
    address: Address,
) -> None:
    line = N_KY - 2
    early = flagged(FIRST[line], Flag.LAST_IN_SLICE)
    images, told = sent(address, [*FIRST[:line], early, *FIRST[line + 1 :], *SECOND])
    assert [image.meta.get("mnet_lines_lost") for image in images] == ["1", None]
    assert "1 lines that images seem to lack" in told
    assert "1 lines after their frame was complete" in told
