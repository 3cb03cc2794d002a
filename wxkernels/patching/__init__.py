"""Models that people run already, made faster in place, proven on a probe and put back on request."""

from wxkernels.patching.replace import patch, unpatch
from wxkernels.patching.report import Report

__all__ = ["Report", "patch", "unpatch"]
