import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxkernels.errors import UserError
from wxkernels.io import lexicon
from wxkernels.io.lexicon import FOURCASTNET_20, FOURCASTNET_26, VARIABLES, canonical

SAME = [
    ("u10m", "u10", "10u", "10m_u_component_of_wind"),
    ("v10m", "v10", "10v", "10m_v_component_of_wind"),
    ("u100m", "u100m", "100u", "100m_u_component_of_wind"),
    ("t2m", "t2m", "2t", "2m_temperature"),
    ("msl", "msl", "msl", "mean_sea_level_pressure"),
    ("sp", "sp", "sp", "surface_pressure"),
    ("tcwv", "tcwv", "tcwv", "total_column_water_vapour"),
    ("z500", "z500", "z_500", ("geopotential", 500)),
    ("t850", "t850", "t_850", ("temperature", 850)),
    ("u1000", "u1000", ("u", 1000), "u_component_of_wind_1000"),
    ("r500", "r500", "r_500", ("relative_humidity", 500.0)),
    ("q700", "q700", "q_700", ("specific_humidity", 700)),
]


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_the_conventions_meet_in_one_name(names):
    assert {canonical(name) for name in names} == {names[0]}


@given(st.sampled_from(sorted(VARIABLES)))
def test_a_canonical_name_is_its_own(name):
    assert canonical(name) == name
    meaning = VARIABLES[name]
    assert meaning.lowest < meaning.highest
    assert meaning.units
    assert meaning.standard_name


def test_channel_orders_are_those_of_the_published_models():
    published = (
        "u10 v10 t2m sp msl t850 u1000 v1000 z1000 u850 v850 z850 u500 v500 z500 t500 z50 r500 r850 tcwv"
    )
    assert tuple(canonical(name) for name in published.split()) == FOURCASTNET_20
    more = ("u100m", "v100m", "u250", "v250", "z250", "t250")
    assert FOURCASTNET_20 + more == FOURCASTNET_26


@pytest.mark.parametrize("name", ["t2n", "z501", "geopotental", ("z", 501), "2m_temprature"])
def test_an_unknown_name_gets_near_misses(name):
    with pytest.raises(UserError, match="did you mean") as error:
        canonical(name)
    assert "\n" not in str(error.value)


def test_surface_and_level_do_not_mix():
    assert lexicon.find("z") == "z"
    assert lexicon.find("z", 500) == "z500"
    assert lexicon.find("t", 500) == "t500"
    assert lexicon.find("t") is None  # a temperature at no stated level


@pytest.mark.parametrize("level", [1000, 850, 500, 250, 50])
def test_geopotential_range_holds_the_standard_atmosphere(level):
    height = {1000: 111, 850: 1457, 500: 5574, 250: 10363, 50: 20576}[level]  # m, ICAO
    meaning = VARIABLES[f"z{level}"]
    assert meaning.lowest < height * 9.80665 < meaning.highest
    if level <= 850:
        assert not meaning.lowest <= height <= meaning.highest  # geopotential metres are noticed
