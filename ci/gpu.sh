#!/usr/bin/env bash
# All that needs a GPU, in one go of at most ten minutes and without a network: builds the package with its CUDA
# kernels into the Python that is active, runs the tests marked gpu, tunes the Triton kernels' tiles, measures, and
# writes OUT/*.json, wxkernels/ops/tiles.json and the record wxkernels/verified.json (OUT has copies): from there on
# the backends that passed, and are not slower than PyTorch, are chosen by themselves.
# Usage: ci/gpu.sh [OUT]. A part whose file is in OUT is kept: a run that was stopped goes on. Packages that are
# missing are installed from wheels in .whl/. Without a GPU it prints what it would do.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu}
seconds=600
failed=()
gpu=$(nvidia-smi -L 2>/dev/null | head -n 1) || true

# step NAME LIMIT COMMAND...: at most LIMIT seconds of those that are left
step() {
    local name=$1 limit=$2 left=$((seconds - SECONDS)) began=$SECONDS
    shift 2
    if [[ -z $gpu ]]; then
        echo "$name, $limit s at most: $*"
    elif ((left < 10)); then
        echo "== $name: no time is left, run ci/gpu.sh again"
        failed+=("$name")
    else
        echo "== $name: $*"
        timeout $((left < limit ? left : limit)) "$@" || failed+=("$name")
        echo "== $name: $((SECONDS - began)) s"
    fi
}

# part FILE LIMIT COMMAND...: a step that makes OUT/FILE; what wxkernels-bench left unfinished is made anew
part() {
    if [[ -n $gpu && -e $out/$1 ]] && ! grep -qs '"unfinished": ' "$out/$1"; then
        echo "== $out/$1 is there"
    else
        step "$@"
    fi
}

bench() {
    local name=$1 limit=$2
    shift 2
    part "$name.json" "$limit" wxkernels-bench "$@" --device cuda --json "$out/$name.json"
}

if [[ -n $gpu ]]; then
    echo "$gpu"
    mkdir -p "$out"
    PATH=$(python3 -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
    python3 ci/gpu.py needs
else
    echo "nvidia-smi shows no GPU here. With one this would run, in $seconds s at most:"
fi
side=()
if python3 -c 'import xdist' 2>/dev/null; then side=(-n 6 --dist loadfile); fi

export WXKERNELS_CUDA=ON
step build 200 python3 -m pip install -q --no-index --no-deps --no-build-isolation -C build-dir=build/gpu-objects -e .
precisions=(fp32 bf16 int8)
if [[ -n $gpu ]] && python3 ci/gpu.py e4m3; then precisions+=(fp8); fi
part tests.xml 260 python3 -m pytest tests/ops/*/test_triton.py tests/ops/*/test_cuda.py -m gpu "${side[@]}" \
    --junitxml "$out/tests.xml"
part step.xml 120 python3 -m pytest tests/test_capture.py tests/forecast/test_gpu.py \
    tests/patching/test_capture.py tests/bench/test_engine.py -m gpu --junitxml "$out/step.xml"
part tiles.json 100 python3 ci/tune.py --seconds 60 --copy "$out/tiles.json"
bench spectral_filter 70 spectral_filter --dtype float32 --dtype bfloat16 --batch 1 --batch 8
bench layer_norm 60 layer_norm layer_norm_int8
bench linear_int8 60 linear_int8 --shape fourcastnet
if [[ ${precisions[*]} == *fp8 ]]; then bench linear_fp8 60 linear_fp8 --shape fourcastnet; fi
bench mlp 80 mlp
bench patches 40 patch_embed patch_head
step record 20 python3 ci/gpu.py record "$out"
# On the backends that the record now names.
bench fourcastnet 120 fourcastnet --peer eager --peer eager-bf16 --peer compiled-bf16 \
    --backend patched-fp32 --backend patched-bf16 --backend patched-int8 --batch 1 --batch 8
if [[ ${precisions[*]} == *fp8 ]]; then
    bench fourcastnet-fp8 60 fourcastnet --peer compiled-bf16 --backend patched-int8 --backend patched-fp8 --batch 1 --batch 8
fi
part skill.csv 60 wxkernels verify --compare "$(IFS=,; echo "${precisions[*]}")" --starts 8 --device cuda --no-progress --scores "$out/skill.csv"
# 50 members for ten days, of which four variables are written once a day; its last line has the times.
part ensemble.zarr 90 wxkernels forecast --random-weights fourcastnet --precision int8 --members 50 --steps 40 \
    --keep t2m,u10m,v10m,z500 --keep-leads 24,48,72,96,120,144,168,192,216,240 \
    --device cuda --no-progress -o "$out/ensemble.zarr"
if [[ -n $gpu ]]; then
    python3 ci/gpu.py table "$out"
    if ((${#failed[@]})); then
        echo "failed, or not done in time: ${failed[*]}" >&2
        exit 1
    fi
fi
