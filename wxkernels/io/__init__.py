"""Weather data in and out: variable names, grids, readers, statistics and the forecast writer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wxkernels.io.readers import open_fields
    from wxkernels.io.statistics import Statistics, load_climatology
    from wxkernels.io.store import open_forecast, to_netcdf
    from wxkernels.io.writer import ForecastWriter, Output

_HOMES = {
    "open_fields": "readers",
    "Statistics": "statistics",
    "load_climatology": "statistics",
    "open_forecast": "store",
    "to_netcdf": "store",
    "ForecastWriter": "writer",
    "Output": "writer",
}
__all__ = [
    "ForecastWriter",
    "Output",
    "Statistics",
    "load_climatology",
    "open_fields",
    "open_forecast",
    "to_netcdf",
]


def __getattr__(name: str) -> Any:
    """Import xarray, zarr and h5py only when something here is used: grids and names do without."""
    if name in _HOMES:
        return getattr(import_module(f"wxkernels.io.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'wxkernels.io' has no attribute {name!r}")
