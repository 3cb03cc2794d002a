#!/usr/bin/env bash
# Builds that a user may make: without nvcc on the path, and WXKERNELS_CUDA=ON without it, which must fail loudly.
# Then the package is imported where Triton is absent, and makes the default forecast. Usage: ci/builds.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-$(mktemp -d)}
mkdir -p "$dir"
python=$(command -v python3)
# A path with the compiler and the tools, but not the folder that holds nvcc.
path=$(dirname "$python"):/usr/bin:/bin
if PATH=$path command -v nvcc >/dev/null; then
    echo "nvcc is on $path: this check cannot hide it" >&2
    exit 1
fi

python3 -m venv "$dir/venv"
# Configured anew, but ninja compiles only what is not as in a build before: without its note of the environment that
# made a build folder, now gone, scikit-build-core does not empty it.
rm -f build/*/.skbuild-info.json build/*/CMakeCache.txt
env -u CUDACXX -u CUDA_HOME PATH="$path" "$dir/venv/bin/pip" install -q -c constraints.txt '.[plot]'
"$dir/venv/bin/python" -P - <<'PYTHON'
import importlib.util
import sys

assert importlib.util.find_spec("triton") is None, "this environment was to have no triton"
import wxkernels

heavy = {"xarray", "zarr", "h5py", "scipy", "triton", "matplotlib"} & set(sys.modules)
assert not heavy, f"import wxkernels loads {heavy}"
from wxkernels import _native, backends, ops  # noqa: F401

assert _native.core is not None, _native.reason
assert _native.core.build_info()["cuda"] in (None, "", False), _native.core.build_info()
assert any(name == "triton" and state != "runs" for _, name, state in backends.table())
from wxkernels.bench import report

assert "</html>" in report.render([]), "the template of the report is in the wheel, and empty"
print("without nvcc and triton: builds, imports, native kernels run")
PYTHON
(cd "$dir" && venv/bin/wxkernels forecast --no-progress | tail -n 4 && ls -d forecast.zarr forecast-*)

if env -u CUDACXX -u CUDA_HOME PATH="$path" WXKERNELS_CUDA=ON \
    "$dir/venv/bin/pip" wheel -q --no-deps -w "$dir/wheels" . >"$dir/on.log" 2>&1; then
    echo "WXKERNELS_CUDA=ON built without nvcc" >&2
    exit 1
fi
grep -q 'nvcc' "$dir/on.log" || { cat "$dir/on.log"; exit 1; }
echo "WXKERNELS_CUDA=ON without nvcc: fails, and says so"

# Where nvcc and a GPU are, the build asks for CUTLASS.
"$dir/venv/bin/pip" install -q -c constraints.txt scikit-build-core
mkdir -p "$dir/gpu"
for tool in nvcc nvidia-smi; do
    ln -sf /bin/true "$dir/gpu/$tool"
done
for folders in "$path" "$dir/gpu:$path"; do
    env -u CUDA_HOME -u WXKERNELS_CUDA PATH="$folders" "$dir/venv/bin/python" -c \
        'from build_backend import *; print("build requirements:", *get_requires_for_build_wheel())'
done | tee "$dir/requirements.log"
[[ $(grep -c nvidia-cutlass "$dir/requirements.log") == 1 ]]
