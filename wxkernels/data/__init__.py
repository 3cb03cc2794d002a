"""The default forecast: a small AFNO of a shallow-water atmosphere, its climatology and held-out cases.

Made by training/shallow_water, which says how well it does.
"""

from importlib.resources import files
from pathlib import Path


def default_model_path() -> Path:
    """The weights, variables, grid, statistics and time step, for wxkernels.models.load (safetensors)."""
    return _file("shallow_water.safetensors")


def default_cases_path() -> Path:
    """Windows of a held-out simulation (netCDF): h (m), u and v (m s-1), 6-hourly, 7 days each."""
    return _file("shallow_water_cases.nc")


def default_climatology_path() -> Path:
    """Time mean of the training simulations (netCDF): h, u and v on (lat, lon)."""
    return _file("shallow_water_climatology.nc")


def _file(name: str) -> Path:
    return Path(str(files(__name__) / name))
