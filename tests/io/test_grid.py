import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.io import samples
from wxkernels.errors import UserError
from wxkernels.io.grid import FOURCASTNET, Grid, interpolate, regrid

GRIDS = st.builds(
    Grid.regular, st.integers(3, 40), st.integers(4, 60).map(lambda n: 2 * n), poles=st.booleans()
)


def wave(grid: Grid) -> np.ndarray:
    """cos(lat) cos(lon): x on the unit sphere, smooth across seam and poles."""
    lat, lon = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)[None]
    return np.cos(lat) * np.cos(lon)


@settings(max_examples=30, deadline=None)
@given(GRIDS, GRIDS, st.floats(-1e5, 1e5))
def test_a_constant_stays_constant(source, target, value):
    constant = np.full(source.shape, value, np.float32)
    assert (interpolate(constant, source, target) == constant[0, 0]).all()


@settings(max_examples=30, deadline=None)
@given(GRIDS, GRIDS)
def test_a_wave_is_kept_to_second_order(source, target):
    step = np.deg2rad(max(np.abs(np.diff(source.lat)).max(), np.diff(source.lon).max()))
    error = np.abs(interpolate(wave(source), source, target) - wave(target)).max()
    assert error <= step**2 / 4 + 1e-9  # h^2/8 |f''| in each direction


@pytest.mark.parametrize("n", [720, 721])
def test_rows_of_721_and_720(n):
    full, other = Grid.regular(721, 16), Grid(FOURCASTNET.lat, Grid.regular(2, 16).lon)
    source, target = (full, other) if n == 721 else (other, full)
    out = interpolate(wave(source), source, target)
    shared = min(len(source.lat), len(target.lat))
    np.testing.assert_allclose(out[:shared], wave(source)[:shared], atol=1e-15)
    assert np.abs(out - wave(target)).max() < 1e-4


def test_wind_across_a_pole_is_a_vector():
    """A uniform flow over the pole, u = -sin(lon): at the pole it is the same flow, not the mean 0."""
    source, target = Grid.regular(18, 36, poles=False), Grid.regular(19, 36)
    u = np.broadcast_to(-np.sin(np.deg2rad(source.lon)), source.shape)
    at_pole = interpolate(u, source, target, vector=True)[[0, -1]]
    np.testing.assert_allclose(at_pole, np.tile(u[:1], (2, 1)), atol=1e-12)
    assert np.abs(interpolate(u, source, target)[0]).max() < 1e-12  # as scalars opposite meridians cancel


def test_equal_grids_give_the_same_object():
    f = samples.fields()
    near = Grid(samples.GRID.lat + 1e-5, samples.GRID.lon.astype(np.float32))
    assert regrid(f, near) is f


def test_regrid_keeps_dims_names_and_other_coordinates():
    f = samples.fields()
    out = regrid(f.transpose("variable", "lat", "lon", "time"), Grid.regular(5, 8))
    assert out.dims == ("variable", "time", "lat", "lon")
    expected = f.isel(lat=slice(None, None, 2), lon=slice(None, None, 2))
    np.testing.assert_allclose(out.transpose(*f.dims).values, expected.values, rtol=1e-6)
    np.testing.assert_array_equal(out["time"], f["time"])
    assert out.dtype == np.float32


def test_a_region_cannot_fill_the_globe():
    region = Grid(np.linspace(58, 50, 9), np.linspace(350, 362, 13))
    inside = Grid(np.array([55.5, 52.5]), np.array([0.5, 1.5]))
    assert interpolate(wave(region), region, inside) == pytest.approx(wave(inside), abs=1e-3)
    with pytest.raises(UserError, match="give data that covers the grid"):
        interpolate(wave(region), region, Grid.regular(9, 16))


def test_grids_compare_by_value_and_refuse_disorder():
    assert Grid.regular(9, 16) == Grid.regular(9, 16)
    assert hash(Grid.regular(9, 16)) == hash(Grid.regular(9, 16))
    assert Grid.regular(9, 16) != Grid.regular(9, 16, poles=False)
    assert FOURCASTNET.shape == (720, 1440)
    assert (FOURCASTNET.lat[0], FOURCASTNET.lat[-1], FOURCASTNET.lon[-1]) == (90, -89.75, 359.75)
    for lat, lon in (
        ([-90, 90], [0, 1]),
        ([90, -91], [0, 1]),
        ([90, 0], [1, 0]),
        ([90, 0], [-1, 0]),
        ([], [0]),
    ):
        with pytest.raises(ValueError, match="expected"):
            Grid(np.array(lat, float), np.array(lon, float))
    with pytest.raises(ValueError, match="read-only"):
        FOURCASTNET.lat[0] = 0
