import numpy as np
import pytest

from wxkernels.errors import UserError
from wxkernels.io.lexicon import VARIABLES
from wxkernels.io.units import check_range, to_si


@pytest.mark.parametrize(
    ("name", "units", "value", "si"),
    [
        ("t2m", "degC", 20, 293.15),
        ("t2m", "K", 293, 293),
        ("msl", "hPa", 1000, 1e5),
        ("msl", "Pa", 1e5, 1e5),
        ("z500", "m**2 s**-2", 5e4, 5e4),
        ("z500", "m^2/s^2", 5e4, 5e4),
        ("z500", "gpm", 5500, 5500 * 9.80665),
        ("u10m", "m/s", 3, 3),
        ("u10m", "m s**-1", 3, 3),
        ("u10m", "km/h", 36, 10),
        ("q850", "g/kg", 5, 0.005),
        ("tp", "mm", 5, 0.005),
        ("r850", "1", 0.5, 50),
        ("lsm", "(0 - 1)", 0.5, 0.5),
        ("t2m", "", 290, 290),
        ("t2m", "unknown", 290, 290),
    ],
)
def test_stated_units_become_si(name, units, value, si):
    scale, offset = to_si(units, name, "file")
    assert value * scale + offset == pytest.approx(si)


@pytest.mark.parametrize(("name", "units"), [("t2m", "Pa"), ("msl", "m"), ("u500", "K")])
def test_units_of_another_quantity_are_refused(name, units):
    with pytest.raises(UserError, match=f"{name} has units '{units}'"):
        to_si(units, name, "file")


def test_the_whole_range_is_admitted():
    for name, meaning in VARIABLES.items():
        check_range(np.linspace(meaning.lowest, meaning.highest, 100), name, "file")


def test_dry_air_is_no_fraction():
    check_range(np.array([0.2, 0.7]), "r500", "file")  # two dry points
    check_range(np.linspace(0.01, 1, 1000), "r50", "file")  # the stratosphere
    with pytest.raises(UserError, match="multiply by 100"):
        check_range(np.linspace(0.01, 1, 1000), "r500", "file")
