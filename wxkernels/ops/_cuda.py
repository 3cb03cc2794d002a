"""What the CUDA C++ backends share."""

import torch

from wxkernels import _native


def unavailable() -> str | None:
    if _native.core is None:
        return _native.reason
    info = _native.core.build_info()
    if info["cuda"] is None:
        return f"it was built without CUDA kernels: {info['cuda_missing']}"
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def tf32_allowed() -> bool:
    """Whether the user lets PyTorch round the operands of float32 products to TF32."""
    matmul = torch.backends.cuda.matmul
    # fp32_precision is newer than allow_tf32, which then may not be read.
    precision = getattr(matmul, "fp32_precision", None)
    return matmul.allow_tf32 if precision is None else precision == "tf32"
