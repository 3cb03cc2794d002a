"""Noise: its distribution, its correlation over the sphere, its dependence on (seed, member) alone."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr
from scipy.special import eval_legendre, sph_legendre_p_all

from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian, Spherical
from wxkernels.forecast.perturbations import EARTH_RADIUS_KM, legendre, member_noise


def state(channels, lat, lon):
    names = [f"v{i}" for i in range(channels)]
    coords = {"variable": names, "lat": lat, "lon": lon}
    return xr.DataArray(
        np.zeros((channels, len(lat), len(lon)), np.float32), coords, ("variable", "lat", "lon")
    )


class EachAlone(np.random.Generator):
    """Gives channel c the c-th coefficient as 1 and the others as 0: the columns of the synthesis."""

    def __init__(self):
        super().__init__(np.random.PCG64())

    def standard_normal(self, size):
        orders, degrees, channels, parts = size
        every = np.eye(orders * degrees * parts, channels)
        return every.reshape(orders, degrees, parts, channels).swapaxes(2, 3)


@pytest.mark.parametrize("n_lon", [8, 30])
def test_spherical_covariance_is_the_stated_one(n_lon):
    length, lat = 3000.0, np.array([90, 71, 33.5, 2, -8, -90.0])
    degree = np.arange(40)
    power = (2 * degree + 1) * np.exp(-degree * (degree + 1) * (length / EARTH_RADIUS_KM) ** 2 / 2)
    kept = 13  # degrees 0 .. 12 hold all but 1e-6
    assert power[kept:].sum() < 1e-6 * power.sum() < power[kept - 2 :].sum()

    fields = Spherical(1.0, length)(EachAlone(), state(2 * kept**2, lat, np.arange(n_lon) * 360 / n_lon))
    synthesis = fields.reshape(2 * kept**2, -1).astype(float)
    theta, phi = np.deg2rad(90 - lat)[:, None], np.arange(n_lon) * 2 * np.pi / n_lon
    x, y, z = np.broadcast_arrays(np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta))
    points = np.stack([x, y, z]).reshape(3, -1)
    cosine = (points.T @ points).clip(-1, 1)
    expected = (power * eval_legendre(degree, cosine[..., None])).sum(-1) / power.sum()
    np.testing.assert_allclose(synthesis.T @ synthesis, expected, atol=3e-6)


def test_spherical_is_near_the_gaussian_of_its_length_scale():
    distance = np.linspace(0, 1500, 7)
    degree = np.arange(400)
    power = (2 * degree + 1) * np.exp(-degree * (degree + 1) * (500 / EARTH_RADIUS_KM) ** 2 / 2)
    stated = (power * eval_legendre(degree, np.cos(distance / EARTH_RADIUS_KM)[:, None])).sum(1) / power.sum()
    np.testing.assert_allclose(stated, np.exp(-((distance / 500) ** 2) / 2), atol=2e-3)


def test_legendre_functions():
    highest, theta = 30, np.linspace(0, np.pi, 9)
    ours = legendre(highest, theta)
    published = sph_legendre_p_all(highest, highest, theta)[0, :, : highest + 1]
    phase = (-1.0) ** np.arange(highest + 1)[:, None]
    np.testing.assert_allclose(ours, np.sqrt(4 * np.pi) * phase * published, atol=1e-12)
    # As high as it may go, the sum of squares holds at every colatitude: nothing has under- or overflowed.
    orders = 1 + (np.arange(1501) > 0)
    top = legendre(1500, np.deg2rad([0.25, 10, 45, 90]))[-1]
    np.testing.assert_allclose((orders[:, None] * top**2).sum(0), 3001, rtol=1e-10)


@pytest.mark.parametrize("perturbation", [Gaussian(0.3), Spherical(0.3, 400)])
def test_on_the_grid_of_fourcastnet(perturbation):
    fields = state(2, 90 - 0.25 * np.arange(720), 0.25 * np.arange(1440))
    tracemalloc.start()
    noise = member_noise(perturbation, 1, 0, fields)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    area = np.cos(np.deg2rad(fields["lat"].values))[:, None]
    deviation = np.sqrt((noise**2 * area).mean((1, 2)) / area.mean())
    np.testing.assert_allclose(deviation, 0.3, rtol=0.1)
    assert noise.dtype == np.float32
    assert peak < 100e6  # 8 MB of noise


def test_noise_depends_on_seed_and_member_alone():
    fields = state(3, np.linspace(80, -80, 6), np.arange(12) * 30.0)
    for perturbation in (Gaussian(1.0), Spherical(1.0, 3000)):
        noise = {(s, m): member_noise(perturbation, s, m, fields) for s in (1, 0) for m in (5, 0, 1)}
        assert len({n.tobytes() for n in noise.values()}) == 6
        assert np.array_equal(noise[1, 5], member_noise(perturbation, 1, 5, fields))
    assert np.isfinite(member_noise(Gaussian(1.0), 2**64 - 1, 2**40, fields)).all()


def test_level_of_each_variable():
    fields = state(3, np.linspace(80, -80, 60), np.arange(120) * 3.0)
    for make in (Gaussian, lambda level: Spherical(level, 1000)):
        once = member_noise(make(1.0), 0, 0, fields)
        noise = member_noise(make({"v0": 2, "v2": 0.5}), 0, 0, fields)
        assert np.array_equal(noise[0], 2 * once[0])
        assert not noise[1].any()
        assert np.array_equal(noise[2], 0.5 * once[2])


def test_a_regional_grid_is_a_part_of_the_circle():
    lat, lon = np.linspace(60, 40, 5), np.arange(36) * 10.0
    whole = member_noise(Spherical(1.0, 2000), 0, 0, state(2, lat, lon))
    part = member_noise(Spherical(1.0, 2000), 0, 0, state(2, lat, lon[:9]))
    assert np.array_equal(part, whole[:, :, :9])


@pytest.mark.parametrize(
    ("length", "lon", "message"),
    [
        (20, np.arange(4) * 90.0, "20 km is too short, the least is 23"),
        (0, np.arange(4) * 90.0, "expected a positive number of km"),
        (500, np.array([0, 10, 30.0]), "divide the circle evenly"),
        (500, np.arange(4) * 100.0, "divide the circle evenly"),
    ],
)
def test_errors(length, lon, message):
    with pytest.raises(UserError, match=message):
        Spherical(1.0, length)(np.random.default_rng(0), state(1, np.array([10.0, 0]), lon))


def test_the_shortest_length_scale_stands():
    noise = Spherical(1.0, 23)(np.random.default_rng(0), state(1, np.array([0.25]), np.arange(1440) * 0.25))
    assert 0.9 < noise.std() < 1.1
