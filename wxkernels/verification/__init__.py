"""Scores of forecasts against the truth, and their tables and pictures."""

from wxkernels.verification.comparison import print_comparison
from wxkernels.verification.offline import verify
from wxkernels.verification.plots import plot_comparison, plot_maps, plot_scores
from wxkernels.verification.report import print_table, skill_lead, to_csv, to_json
from wxkernels.verification.scorer import Scorer
from wxkernels.verification.weights import latitude_weights

__all__ = [
    "Scorer",
    "latitude_weights",
    "plot_comparison",
    "plot_maps",
    "plot_scores",
    "print_comparison",
    "print_table",
    "skill_lead",
    "to_csv",
    "to_json",
    "verify",
]
