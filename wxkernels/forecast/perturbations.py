"""Perturbations of the initial state: what makes one analysis an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from wxkernels.errors import UserError

EARTH_RADIUS_KM = 6371.0
# The recurrence starts from sin(colatitude)^m, which underflows where it matters from degree 1900 or so.
HIGHEST_DEGREE = 1500
TABLE_BYTES = 32 << 20  # of Legendre functions at a time

#: noise = perturbation(generator, state), state (variable, lat, lon) float32, normalised; noise of its shape.
Perturbation = Callable[[np.random.Generator, xr.DataArray], "np.ndarray | xr.DataArray"]
Level = float | Mapping[str, float]


@dataclass(frozen=True)
class Gaussian:
    """Independent normal noise of standard deviation `level` at every point (0.3 in NVlabs/FourCastNet).

    level: in standard deviations of the variable; one number, or {variable: number} and 0 for the others.
    """

    level: Level

    def __call__(self, generator: np.random.Generator, state: xr.DataArray) -> np.ndarray:
        """Noise (variable, lat, lon) float32. UserError: a level that is negative or names no variable."""
        levels = _levels(self.level, state)
        return levels * generator.standard_normal(state.shape, dtype=np.float32)


@dataclass(frozen=True)
class Spherical:
    """Normal noise of standard deviation `level` at every point, isotropic and correlated over the sphere.

    C(d) = sum_l (2l+1) exp(-l(l+1) k) P_l(cos d/R) / sum_l (2l+1) exp(-l(l+1) k), k = L^2 / 2R^2,
    R = 6371 km: the correlation of diffusion (Weaver and Courtier 2001), exp(-d^2 / 2L^2) for d and L much
    smaller than R. The sum ends where the degrees left out hold 1e-6 of the variance; what stays is
    normalised exactly. Variables are independent of one another.

    level: as for Gaussian. length_scale_km: L, from 23 km. Any latitudes; longitudes that divide the circle.
    """

    level: Level
    length_scale_km: float

    def __call__(self, generator: np.random.Generator, state: xr.DataArray) -> np.ndarray:
        """Noise (variable, lat, lon) float32. UserError: a bad level, length scale or longitude axis."""
        levels = _levels(self.level, state)
        lat, lon = state["lat"].values, state["lon"].values
        amplitude = _amplitudes(self.length_scale_km)  # (l,)
        degrees, channels = len(amplitude), state.shape[0]
        circle = _points_on_circle(lon)
        # Sampled on a circle fine enough for every order, of which each `stride`-th point is one of the grid.
        stride = -(-2 * degrees // circle)
        coefficients = generator.standard_normal((degrees, degrees, channels, 2))  # m, l, C, (re, im)
        coefficients *= amplitude[:, None, None]
        coefficients[1:] *= math.sqrt(0.5)  # orders +m and -m share the variance; irfft adds the two
        flat = coefficients.reshape(degrees, degrees, -1)
        noise = np.empty(state.shape, np.float32)
        rows = min(max(1, TABLE_BYTES // (8 * degrees**2)), 32)
        for top in range(0, len(lat), rows):
            table = legendre(degrees - 1, np.deg2rad(90 - lat[top : top + rows]))  # l, m, lat
            waves = np.matmul(table.transpose(1, 2, 0), flat)  # m, lat, C * 2
            waves = waves.reshape(degrees, -1, channels, 2).view(np.complex128)[..., 0]
            waves = waves.transpose(2, 1, 0).astype(np.complex64)  # C, lat, m
            field = np.fft.irfft(waves, n=stride * circle, norm="forward")[..., ::stride]
            noise[:, top : top + rows] = field[..., : len(lon)]
        return noise * levels


def legendre(highest: int, colatitude: np.ndarray) -> np.ndarray:
    """Associated Legendre functions P_lm(cos colatitude), (l, m, colatitude) float64, zero where m > l.

    Normalised so that P_l0^2 + 2 sum_m P_lm^2 = 2l + 1 everywhere; without the (-1)^m phase.
    colatitude (n,) in radians. Recurrence over degrees: Holmes and Featherstone 2002, equation 11.
    """
    cos, sin = np.cos(colatitude), np.sin(colatitude)
    table = np.zeros((highest + 1, highest + 1, len(colatitude)))
    table[0, 0] = 1
    orders = np.arange(highest + 1.0)[:, None]
    for degree in range(1, highest + 1):
        m = orders[:degree]
        scale = (2 * degree + 1) / (degree**2 - m**2)
        table[degree, :degree] = np.sqrt(scale * (2 * degree - 1)) * cos * table[degree - 1, :degree]
        if degree > 1:
            before = np.sqrt(scale * ((degree - 1) ** 2 - m**2) / (2 * degree - 3))
            table[degree, :degree] -= before * table[degree - 2, :degree]
        table[degree, degree] = math.sqrt(1 + 0.5 / degree) * sin * table[degree - 1, degree - 1]
    return table


def _amplitudes(length_scale_km: float) -> np.ndarray:
    """Standard deviation of each degree's coefficients: sum_l (2l+1) a_l^2 = 1."""
    if not length_scale_km > 0:
        raise UserError(f"length_scale_km: expected a positive number of km, got {length_scale_km}")
    k = (length_scale_km / EARTH_RADIUS_KM) ** 2 / 2
    highest = math.ceil(math.sqrt(-math.log(1e-6) / k))  # the tail of sum (2l+1) exp(-l(l+1)k) is exp(-l^2 k)
    if highest > HIGHEST_DEGREE:
        raise UserError(
            f"length_scale_km: {length_scale_km} km is too short, the least is 23; use Gaussian noise"
        )
    degree = np.arange(highest + 1)
    variance = np.exp(-degree * (degree + 1) * k)
    return np.sqrt(variance / np.sum((2 * degree + 1) * variance))


def _points_on_circle(lon: np.ndarray) -> int:
    spacing = float(lon[-1] - lon[0]) / (len(lon) - 1) if len(lon) > 1 else 360.0
    circle = round(360 / spacing) if spacing > 0 else 0
    even = lon[0] + np.arange(len(lon)) * (360 / max(circle, 1))
    if circle < len(lon) or not np.allclose(lon, even, rtol=0, atol=1e-3 * 360 / circle):
        raise UserError("Spherical noise needs longitudes that divide the circle evenly; use Gaussian noise")
    return circle


def _levels(level: Level, state: xr.DataArray) -> np.ndarray:
    """The level of each variable, (C, 1, 1) float32."""
    names = [str(name) for name in state["variable"].values]
    if isinstance(level, Mapping):
        unknown = sorted(set(level) - set(names))
        if unknown:
            raise UserError(
                f"level: the model has no variable {', '.join(unknown)}; it has {', '.join(names)}"
            )
        values = [level.get(name, 0.0) for name in names]
    else:
        values = [level] * len(names)
    levels = np.array(values, np.float32)
    if not np.all(levels >= 0) or not np.all(np.isfinite(levels)):
        raise UserError(f"level: expected numbers from 0 up, got {level}")
    return levels[:, None, None]


def member_noise(perturbation: Perturbation, seed: int, member: int, state: xr.DataArray) -> np.ndarray:
    """The noise of a member, (variable, lat, lon) float32, by a counter-based generator keyed (seed, member).

    UserError: the perturbation gave another shape, or values that are not finite.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, member], np.uint64)))
    noise = np.asarray(perturbation(generator, state), np.float32)
    if noise.shape != state.shape:
        raise UserError(f"perturbation: expected noise of shape {state.shape}, got {noise.shape}")
    if not np.isfinite(noise).all():
        raise UserError(f"perturbation: the noise of member {member} is not finite")
    return noise


def named(perturbation: Perturbation | None, control: bool) -> str:
    """The perturbation in words that tell it from others."""
    if perturbation is None:
        return "none"
    known = isinstance(perturbation, Gaussian | Spherical)
    name = (
        repr(perturbation)
        if known
        else getattr(perturbation, "__qualname__", type(perturbation).__qualname__)
    )
    return f"{name}, member 0 unperturbed" if control else name
