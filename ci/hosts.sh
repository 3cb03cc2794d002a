#!/usr/bin/env bash
# The patching tests with every host installed, in a venv of its own (about 2 GB). Usage: ci/hosts.sh [DIR]
# A host that does not install, or a test that is skipped, fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-$(mktemp -d)}
mkdir -p "$dir"
python3 -m venv "$dir/venv"
. "$dir/venv/bin/activate"
export PIP_DISABLE_PIP_VERSION_CHECK=1

pip install -q torch==2.13.0
pip install -q -c constraints.txt nvidia-physicsnemo==2.2.2 earth2studio==0.19.0
# These two pin older versions or bring what only their data loaders need.
pip install -q --no-deps nvidia-modulus==0.9.0 ai-models-fourcastnet==0.0.7
pip install -q -c constraints.txt pytest scikit-build-core pybind11
pip install -q -c constraints.txt --no-build-isolation -C build-dir="$dir/build" -e .

pip list | grep -E '^(torch|torchvision|timm|nvidia-physicsnemo|nvidia-modulus|earth2studio|ai-models-fourcastnet|wxkernels) '
wxkernels info
python -m pytest tests/patching -rs --durations=5 | tee "$dir/tests.log"
if grep -q '^SKIPPED' "$dir/tests.log"; then
    echo "a host is missing: see SKIPPED above" >&2
    exit 1
fi
python ci/hosts.py
