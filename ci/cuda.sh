#!/usr/bin/env bash
# The CUDA C++ kernels without a GPU: their epilogue runs on the CPU, and the kernels in the installed module are
# looked at. Usage: ci/cuda.sh [DIR]   Needs nvcc, and wxkernels installed with its kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvcc >/dev/null; then
    echo "CUDA kernels: skipped, there is no nvcc on PATH"
    exit 0
fi
dir=${1:-$(mktemp -d)}
mkdir -p "$dir"

python -m pip install -q --no-deps -c constraints.txt --target "$dir/python" nvidia-cutlass
nvcc -std=c++17 -O1 --expt-relaxed-constexpr -gencode=arch=compute_90a,code=sm_90a -Icsrc -Icsrc/include \
    -isystem "$dir/python/cutlass_library/source/include" -o "$dir/epilogue" tests/ops/linear_int8/epilogue.cu
"$dir/epilogue"
python ci/cuda.py
