"""Networks in bfloat16, int8 and e4m3: calibrate measures and chooses, apply and convert_block convert."""

from wxkernels.quantization.calibration import BUDGETS, calibrate
from wxkernels.quantization.conversion import apply, convert_block, layer_names
from wxkernels.quantization.scheme import PRECISIONS, LayerScheme, Scheme

__all__ = [
    "BUDGETS",
    "PRECISIONS",
    "LayerScheme",
    "Scheme",
    "apply",
    "calibrate",
    "convert_block",
    "layer_names",
]
