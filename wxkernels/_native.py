"""The compiled module, or the reason why it is missing (told when it is needed, not at import)."""

from pathlib import Path
from types import ModuleType

core: ModuleType | None = None
reason: str | None = None

try:
    from wxkernels import _core

    core = _core
except ImportError as error:
    reason = f"the compiled module wxkernels._core cannot be loaded ({error})"
    if (Path(__file__).parents[1] / "CMakeLists.txt").is_file():
        reason += "; this is the source tree: leave its folder, or `pip install -e .`"
    else:
        reason += "; run `pip install .` again"
