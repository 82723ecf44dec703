import pytest

from mnet.masks.strata import Stratum, channels


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, "single"), (2, "few"), (6, "few"), (7, "few"), (8, "many"), (64, "many")],
)
def test_one_channel_a_few_and_many_are_kinds_of_their_own(n, expected):
    assert channels(n) == expected
    assert Stratum(acceleration=4.0, channels=expected).holds(n, 4.0)
    assert Stratum(acceleration=4.0).holds(n, 4.0)
    assert not Stratum(acceleration=4.0, channels=expected).holds(n, 8.0)


def test_a_stratum_has_a_name_for_cards_and_logs():
    assert Stratum(acceleration=4.0).name == "any channels, 4x"
    narrow = Stratum(acceleration=8.0, channels="few", n_calibration=8)
    assert narrow.name == "few channels, 8x, 8 calibration lines"


def test_no_channel_and_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="0 channels"):
        channels(0)
    with pytest.raises(ValueError, match="'several'"):
        Stratum(acceleration=4.0, channels="several")
