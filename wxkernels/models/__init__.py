"""Whole networks, and the readers of their checkpoints."""

from wxkernels.models.afno import AFNONet
from wxkernels.models.loading import load
from wxkernels.models.precip import PrecipNet
from wxkernels.models.weather_model import WeatherModel

__all__ = ["AFNONet", "PrecipNet", "WeatherModel", "load"]
