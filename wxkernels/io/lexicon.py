"""One lexicon for the variable names of FourCastNet, earth2studio, ECMWF and WeatherBench 2."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from wxkernels.errors import UserError

GRAVITY = 9.80665  # m s-2, standard


@dataclass(frozen=True)
class Variable:
    """What a canonical name means: CF names, SI units, and the range beyond which units are plainly wrong."""

    long_name: str
    standard_name: str
    units: str
    lowest: float
    highest: float

    @property
    def is_vector(self) -> bool:
        """Whether it is a horizontal vector component, which changes sign across a pole."""
        return self.standard_name in ("eastward_wind", "northward_wind")


# canonical name: (meaning, names elsewhere: FourCastNet and CF, ECMWF, WeatherBench 2, ECMWF long names)
_SURFACE: dict[str, tuple[Variable, tuple[str, ...]]] = {
    "u10m": (
        Variable("10 metre eastward wind", "eastward_wind", "m s-1", -120, 120),
        ("u10", "10u", "10m_u_component_of_wind", "10_metre_u_wind_component"),
    ),
    "v10m": (
        Variable("10 metre northward wind", "northward_wind", "m s-1", -120, 120),
        ("v10", "10v", "10m_v_component_of_wind", "10_metre_v_wind_component"),
    ),
    "u100m": (
        Variable("100 metre eastward wind", "eastward_wind", "m s-1", -150, 150),
        ("100u", "100m_u_component_of_wind", "100_metre_u_wind_component"),
    ),
    "v100m": (
        Variable("100 metre northward wind", "northward_wind", "m s-1", -150, 150),
        ("100v", "100m_v_component_of_wind", "100_metre_v_wind_component"),
    ),
    "t2m": (
        Variable("2 metre temperature", "air_temperature", "K", 170, 345),
        ("2t", "2m_temperature", "2_metre_temperature"),
    ),
    "d2m": (
        Variable("2 metre dewpoint temperature", "dew_point_temperature", "K", 140, 320),
        ("2d", "2m_dewpoint_temperature", "2_metre_dewpoint_temperature"),
    ),
    "sp": (Variable("surface pressure", "surface_air_pressure", "Pa", 40e3, 115e3), ("surface_pressure",)),
    "msl": (
        Variable("mean sea level pressure", "air_pressure_at_mean_sea_level", "Pa", 84e3, 112e3),
        ("mean_sea_level_pressure", "mslp", "prmsl"),
    ),
    "tcwv": (
        Variable("total column water vapour", "atmosphere_mass_content_of_water_vapor", "kg m-2", -1, 130),
        ("total_column_water_vapour", "total_column_vertically-integrated_water_vapour"),
    ),
    "tcw": (
        Variable("total column water", "atmosphere_mass_content_of_water", "kg m-2", -1, 150),
        ("total_column_water",),
    ),
    "skt": (Variable("skin temperature", "surface_temperature", "K", 160, 370), ("skin_temperature",)),
    "sst": (
        Variable("sea surface temperature", "sea_surface_temperature", "K", 260, 320),
        ("sea_surface_temperature",),
    ),
    "tp": (
        Variable("total precipitation", "lwe_thickness_of_precipitation_amount", "m", -1e-3, 2),
        ("total_precipitation",),
    ),
    "tp06": (
        Variable("6 hour total precipitation", "lwe_thickness_of_precipitation_amount", "m", -1e-3, 1),
        ("total_precipitation_6hr", "tp6h"),
    ),
    "lsm": (
        Variable("land-sea mask", "land_binary_mask", "1", -0.01, 1.01),
        ("land_sea_mask", "land-sea_mask"),
    ),
    "orog": (
        Variable("orography", "surface_altitude", "m", -1000, 9500),
        ("orography", "surface_altitude"),
    ),
    "z": (
        Variable("surface geopotential", "surface_geopotential", "m2 s-2", -10e3, 93e3),
        ("geopotential_at_surface", "zs"),
    ),
    # the shallow-water atmosphere of the embedded default
    "h": (
        Variable("layer depth", "depth", "m", 0, 1e5),
        ("layer_depth",),
    ),
    "u": (Variable("eastward wind", "eastward_wind", "m s-1", -400, 400), ()),
    "v": (Variable("northward wind", "northward_wind", "m s-1", -400, 400), ()),
}

# letter: (meaning, names elsewhere) on pressure levels; the geopotential's range comes from the level
_ON_LEVELS: dict[str, tuple[Variable, tuple[str, ...]]] = {
    "z": (Variable("geopotential", "geopotential", "m2 s-2", math.nan, math.nan), ("geopotential", "gh")),
    "t": (
        Variable("temperature", "air_temperature", "K", 130, 345),
        ("temperature", "air_temperature", "ta"),
    ),
    "u": (
        Variable("eastward wind", "eastward_wind", "m s-1", -250, 250),
        ("u_component_of_wind", "eastward_wind", "ua"),
    ),
    "v": (
        Variable("northward wind", "northward_wind", "m s-1", -250, 250),
        ("v_component_of_wind", "northward_wind", "va"),
    ),
    "r": (
        Variable("relative humidity", "relative_humidity", "%", -60, 260),
        ("relative_humidity", "hur", "rh"),
    ),
    "q": (
        Variable("specific humidity", "specific_humidity", "kg kg-1", -1e-2, 0.06),
        ("specific_humidity", "hus"),
    ),
    "w": (
        Variable("vertical velocity", "lagrangian_tendency_of_air_pressure", "Pa s-1", -100, 100),
        ("vertical_velocity", "lagrangian_tendency_of_air_pressure", "wap"),
    ),
}

# the 37 pressure levels of ERA5, hPa
_LEVELS = (
    *(1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550),
    *(600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000),
)


def _standard_height(level: float) -> float:
    """Height (m) of a pressure level (hPa) in the standard atmosphere, isothermal above 11 km."""
    if level > 226.32:
        return 44330.8 * (1 - (level / 1013.25) ** 0.190263)
    return 11000 + 6341.6 * math.log(226.32 / level)


def _at_level(letter: str, level: int) -> Variable:
    kind = _ON_LEVELS[letter][0]
    lowest, highest = kind.lowest, kind.highest
    if (
        letter == "z"
    ):  # +-(600 m + 12 %): wider than any weather, narrower than a factor of 9.8 from 850 hPa up
        height = _standard_height(level)
        margin = 600 + 0.12 * height
        lowest, highest = GRAVITY * (height - margin), GRAVITY * (height + margin)
    return Variable(f"{kind.long_name} at {level} hPa", kind.standard_name, kind.units, lowest, highest)


# `u10` and `v10` are the winds at 10 m (FourCastNet, ECMWF netCDF), so the winds at 10 hPa have no name here.
VARIABLES: dict[str, Variable] = {name: meaning for name, (meaning, _) in _SURFACE.items()} | {
    f"{letter}{level}": _at_level(letter, level)
    for letter in _ON_LEVELS
    for level in _LEVELS
    if f"{letter}{level}" not in ("u10", "v10")
}

_SURFACE_NAMES = {name: name for name in _SURFACE} | {
    alias: name for name, (_, aliases) in _SURFACE.items() for alias in aliases
}
_LEVEL_NAMES = {letter: letter for letter in _ON_LEVELS} | {
    alias: letter for letter, (_, aliases) in _ON_LEVELS.items() for alias in aliases
}

# Channel order of the published models.
FOURCASTNET_20: tuple[str, ...] = (
    *("u10m", "v10m", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850", "z850"),
    *("u500", "v500", "z500", "t500", "z50", "r500", "r850", "tcwv"),
)
FOURCASTNET_26: tuple[str, ...] = (
    *FOURCASTNET_20,
    *("u100m", "v100m", "u250", "v250", "z250", "t250"),
)


def find(name: str, level: float | None = None) -> str | None:
    """The canonical name of `name` (at `level` hPa), or None where the lexicon has none."""
    cleaned = name.strip().lower().replace(" ", "_")
    if level is not None and cleaned in _LEVEL_NAMES:
        found = f"{_LEVEL_NAMES[cleaned]}{level:g}"
        return found if found in VARIABLES else None
    if cleaned in _SURFACE_NAMES:
        return _SURFACE_NAMES[cleaned]
    match = re.fullmatch(r"(.+?)[_@-]?(\d+)(?:_?(?:hpa|mb))?", cleaned)
    if level is None and match and match[1] in _LEVEL_NAMES:
        found = f"{_LEVEL_NAMES[match[1]]}{int(match[2])}"
        return found if found in VARIABLES else None
    return None


def canonical(name: str | tuple[str, float], level: float | None = None) -> str:
    """The canonical (earth2studio) name of a variable named by any of the four conventions.

    `name`: `u10`, `2t`, `z_500`, `geopotential_500`, or a name with its pressure level in hPa, as a pair or
    in `level`. UserError: the name is not in the lexicon; it lists the nearest ones.
    """
    if isinstance(name, tuple):
        name, level = name
    found = find(name, level)
    if found is not None:
        return found
    asked = name if level is None else f"{name} at {level:g} hPa"
    known = [*VARIABLES, *_SURFACE_NAMES, *_LEVEL_NAMES]
    near = difflib.get_close_matches(name.strip().lower(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    if not near:
        hint = "; names look like t2m, z500, 2t, z_500 or 2m_temperature"
    raise UserError(f"unknown variable '{asked}'{hint}")
