"""The runner: initial state, members, steps, output."""

from wxkernels.forecast.ensemble import Stopped
from wxkernels.forecast.perturbations import Gaussian, Perturbation, Spherical
from wxkernels.forecast.run import Interrupted, Result, run

__all__ = ["Gaussian", "Interrupted", "Perturbation", "Result", "Spherical", "Stopped", "run"]
