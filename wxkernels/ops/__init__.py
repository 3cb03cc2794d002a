"""The operations: what each computes is its reference; where it runs is chosen at call time."""

from wxkernels.ops.spectral_filter import spectral_filter

__all__ = ["spectral_filter"]
