"""scikit-build-core, which also asks for the headers of CUTLASS where CMakeLists.txt may need them."""

import os
import shutil

from scikit_build_core import build
from scikit_build_core.build import *  # noqa: F403

CUTLASS = "nvidia-cutlass==4.2.0.0"


def cutlass() -> list[str]:
    if os.environ.get("WXKERNELS_CUTLASS_DIR") or not (shutil.which("nvcc") or os.environ.get("CUDA_HOME")):
        return []
    wish = os.environ.get("WXKERNELS_CUDA", "AUTO")
    return [CUTLASS] if wish == "ON" or (wish == "AUTO" and shutil.which("nvidia-smi")) else []


def get_requires_for_build_wheel(config_settings=None):
    return build.get_requires_for_build_wheel(config_settings) + cutlass()


def get_requires_for_build_editable(config_settings=None):
    return build.get_requires_for_build_editable(config_settings) + cutlass()
