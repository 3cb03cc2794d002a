"""Fast inference for AI weather models.

`wxkernels.patch(model)` makes a model that you already run faster; `wxkernels.forecast.run` turns one
analysis into an ensemble forecast; `wxkernels.ops` holds the operations. Importing changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wxkernels import backends, forecast, io, models, nn, ops, quantization, verification
    from wxkernels.patching import patch, unpatch

__version__ = "0.1.0"
__all__ = [
    "backends",
    "forecast",
    "io",
    "models",
    "nn",
    "ops",
    "patch",
    "quantization",
    "unpatch",
    "verification",
]

_FUNCTIONS = {"patch": "wxkernels.patching", "unpatch": "wxkernels.patching"}


def __getattr__(name: str) -> Any:
    """Load a room when it is first used: `import wxkernels` alone loads nothing else."""
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    if name == "backends":
        import_module("wxkernels.ops")  # its ops have them
    if name in __all__:
        return import_module(f"wxkernels.{name}")
    raise AttributeError(f"module 'wxkernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
