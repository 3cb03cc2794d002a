#!/usr/bin/env bash
# The CUDA C++ kernels without a GPU: the epilogue of linear_int8 runs on the CPU, the matrix instructions that the
# tests put in the place of a GPU's are held to CuTe's layouts of these, and the kernels in the installed module are
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
cutlass=$dir/python/cutlass_library/source/include
nvcc -std=c++17 -O1 --expt-relaxed-constexpr -gencode=arch=compute_90a,code=sm_90a -Icsrc -Icsrc/include \
    -isystem "$cutlass" -o "$dir/epilogue" tests/ops/linear_int8/epilogue.cu
"$dir/epilogue"
nvcc -std=c++17 -O1 -Xcompiler -fsanitize=address -Itests/cuda_on_cpu -isystem "$cutlass" -o "$dir/layouts" \
    tests/cuda_on_cpu/layouts.cpp
"$dir/layouts"
python ci/cuda.py
