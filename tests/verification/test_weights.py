"""Area weights: against areas counted by sampling, the published formulas, and their properties."""

import numpy as np
import pytest

from wxkernels.errors import UserError
from wxkernels.verification import latitude_weights

GAUSSIAN = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
GRIDS = {
    "poles, odd": np.linspace(90, -90, 33),
    "poles, even": np.linspace(90, -90, 32),
    "no poles, odd": 90 - 180 * (np.arange(31) + 0.5) / 31,
    "no poles, even": 90 - 180 * (np.arange(32) + 0.5) / 32,
    "south pole dropped": np.linspace(90, -90, 33)[:-1],
    "gaussian": GAUSSIAN,
    "uneven": np.array([88.0, 60.0, 55.0, 10.0, -5.0, -70.0, -89.0]),
}


@pytest.mark.parametrize("lat", GRIDS.values(), ids=GRIDS.keys())
def test_weights_are_the_share_of_the_sphere_nearest_to_each_row(lat):
    sample = np.rad2deg(np.arcsin(np.linspace(-1, 1, 100_001)))  # equal areas
    nearest = np.abs(sample[:, None] - lat[None, :]).argmin(1)
    share = np.bincount(nearest, minlength=len(lat)) / len(sample)
    np.testing.assert_allclose(latitude_weights(lat), share * len(lat), atol=6e-4)


@pytest.mark.parametrize(("north", "south", "step"), [(58, 50, 0.25), (80, 60, 5)])
def test_regional_grid_ends_half_a_spacing_beyond_its_rows(north, south, step):
    lat = np.arange(north, south - step / 2, -step)
    edges = np.deg2rad(np.append(lat + step / 2, lat[-1] - step / 2))
    area = np.sin(edges[:-1]) - np.sin(edges[1:])
    np.testing.assert_allclose(latitude_weights(lat), area / area.mean(), rtol=1e-12)


@pytest.mark.parametrize("convention", ["weatherbench2", "fourcastnet"])
def test_weights_turn_with_the_rows(convention):
    lat = np.linspace(90, -90, 33)[:-1]
    turned = latitude_weights(lat[::-1], convention)[::-1]
    expected = latitude_weights(lat, convention)
    np.testing.assert_allclose(turned, expected, rtol=1e-12, atol=1e-15)
    assert expected.mean() == pytest.approx(1, abs=1e-14)


def test_float32_latitudes_reach_the_poles():
    lat = np.linspace(90, -90, 721)[:720]
    np.testing.assert_allclose(latitude_weights(lat.astype(np.float32)), latitude_weights(lat), rtol=1e-4)


def test_fourcastnet_weights_count_rows_and_not_latitudes():
    """n cos(lat_j) / sum cos(lat), lat_j = 90 - 180 j / (n - 1) with n = 720 on rows that end at -89.75."""
    lat = 90 - 0.25 * np.arange(720)
    cosines = np.array([np.cos(np.pi / 180 * (90 - j * 180 / 719)) for j in range(720)])
    np.testing.assert_allclose(
        latitude_weights(lat, "fourcastnet"), 720 * cosines / cosines.sum(), atol=1e-12
    )
    assert np.abs(latitude_weights(lat, "fourcastnet") - latitude_weights(lat)).max() > 1e-3


@pytest.mark.parametrize(
    ("lat", "convention", "message"),
    [
        (np.arange(58.0, 50.0, -0.25), "fourcastnet", "regional"),
        (np.linspace(90, -90, 5), "cosine", "'cosine'"),
        (np.array([10.0, 20.0, 15.0]), "weatherbench2", "rise or fall"),
        (np.array([10.0, 10.0]), "weatherbench2", "rise or fall"),
        (np.array([100.0, 10.0]), "weatherbench2", "between -90 and 90"),
        (np.array([np.nan, 10.0]), "weatherbench2", "between -90 and 90"),
    ],
)
def test_wrong_grids_and_names_get_one_line(lat, convention, message):
    with pytest.raises(UserError, match=message) as caught:
        latitude_weights(lat, convention)
    assert "\n" not in str(caught.value)
