#!/usr/bin/env bash
# Everything that README.md and docs/ state of this machine's CPU, into bench/results/DEVICE with a report, and the
# tables made of it. Usage: ci/bench.sh [--again] [DEVICE]. An hour and a quarter on two cores that have nothing else
# to do. What is there already is kept, and told with its commit where that is not HEAD's: a run that was stopped goes
# on; --again measures all anew. Pictures and the trace go to build/bench. Needs: pip install -c constraints.txt
# '.[bench,plot]', and ai-models-fourcastnet as docs/benchmarks.md has it.
set -euo pipefail
cd "$(dirname "$0")/.."
again=
if [[ ${1:-} == --again ]]; then
    again=1
    shift
fi
slug='import re, torch; from wxkernels.bench.machine import device_name
print(re.sub("[^a-z0-9]+", "-", device_name(torch.device("cpu")).lower()))'
results=bench/results/${1:-$(python -c "$slug")}
threads=$(nproc)
head=$(git rev-parse --short HEAD)
mkdir -p "$results" build/bench

# measure FILE ARGUMENTS...: unless the file is there, whole and in the schema of now
measure() {
    local file=$results/$1.json
    shift
    if [[ -z $again ]] && grep -qs '"schema": 2' "$file" && ! grep -q '"unfinished": ' "$file"; then
        local commit
        commit=$(sed -n 's/.*"commit": "\([^"]*\)".*/\1/p' "$file")
        [[ $commit == "$head" ]] && commit= || commit=", of commit ${commit:-unknown}"
        echo "== $file is there$commit"
        return
    fi
    echo "== $file: wxkernels-bench $*, $(date -u +%H:%M)"
    wxkernels-bench "$@" --threads "$threads" --json "$file"
}

# The peers that can win, and the published code; a call of another takes up to 20 s and changes nothing.
peers=()
for peer in eager eager-bf16 compiled-bf16 compiled-bf16-freezing torchao-int8 pt2e-int8 openvino-bf16; do
    peers+=(--peer "$peer")
done
ours=(--backend patched-fp32 --backend patched-bf16 --backend patched-int8)
# The speed of an op differs between processes by more than within one, that of the network by less than 5 %.
ops=(--shape fourcastnet --shape physicsnemo-default --shape shallow-water --processes 3 --rounds 7)

measure fourcastnet fourcastnet --rounds 3 "${peers[@]}" "${ours[@]}"                                         # 12 min
measure profile profile fourcastnet --rounds 2 --plot build/bench/profile.png --trace build/bench/trace.json  # 4 min
measure memory memory fourcastnet --peer eager --peer eager-bf16 "${ours[@]}"                                 # 3 min
measure mlp mlp "${ops[@]}"                                                                                   # 5 min
measure linear_int8 linear_int8 "${ops[@]}" --batch 1 --batch 4                                               # 8 min
measure patches patch_embed patch_head "${ops[@]}"                                                            # 3 min
measure layer_norm layer_norm layer_norm_int8 "${ops[@]}"                                                     # 2 min
measure spectral_filter spectral_filter "${ops[@]}" --batch 1 --batch 4 --dtype float32 --dtype bfloat16      # 8 min
measure fourcastnet-members fourcastnet --rounds 2 --batch 1 --batch 2 --batch 4 --batch 8 \
    --peer compiled-bf16-freezing "${ours[@]}"                                                                # 25 min

# The README's forecast at full size, and how long all of it takes.                                             # 3 min
if [[ -n $again || ! -s $results/forecast.txt ]]; then
    began=$SECONDS
    wxkernels forecast --random-weights fourcastnet --precision int8 --members 1 --steps 40 --threads "$threads" \
        --no-progress --overwrite -o build/bench/forecast.zarr | tee build/bench/forecast.txt
    echo "$((SECONDS - began)) s in all" >>build/bench/forecast.txt
    mv build/bench/forecast.txt "$results/forecast.txt"
    rm -r build/bench/forecast.zarr
else
    echo "== $results/forecast.txt is there"
fi

wxkernels-bench report "$results"/*.json -o "$results/report.html"
python ci/tables.py "$results"
