#!/usr/bin/env bash
# What needs a GPU, in three parts of at most 4 minutes each, the most telling step first:
#
#   scripts/gpu_session.sh a           # the tests marked `gpu`, and the demo from end to end
#   scripts/gpu_session.sh b           # full fine-tuning and LoRA of 1B beside TRL with Liger kernels
#   scripts/gpu_session.sh c           # decoding 1B, the loss beside other kernels, LoRA of 8B, Unsloth
#   scripts/gpu_session.sh a --cpu     # the same script on the smallest shapes, on a CPU
#
# Archives of scripts/gpu_bundle.sh under .gpu/ are unpacked and used, if they are there (not with --cpu). Every step has
# a limit of its own and a log, $OUT/PART-STEP.log; $OUT/summary.txt has a line for each, with exit status and seconds.
# OUT is build/gpu unless set; PYTHON, PART_SECONDS (240) and SITE, where archives are unpacked, can be set too.
set -uo pipefail
cd "$(dirname "$0")/.."
part=${1:-}
case "$part" in a | b | c) ;; *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
cpu=$([ "${2:-}" = --cpu ] && echo yes || echo no)
PYTHON=$(realpath -s "$(command -v "${PYTHON:-python3}")")
OUT=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
SITE=${SITE:-$PWD/build/gpu-site}
end=$((SECONDS + ${PART_SECONDS:-240}))
summary=$OUT/summary.txt
scratch=$(mktemp -d)
export HF_HUB_OFFLINE=1 TUNESMITH_HOME=$scratch/home UNSLOTH_COMPILE_LOCATION=$scratch/unsloth PYTHONUNBUFFERED=1
outside=${PYTHONPATH:-}
export PYTHONPATH=$PWD/src${outside:+:$outside}
failed=0

finish() {
    echo "part $part: $SECONDS s in all" >>"$summary"
    cat "$summary"
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 143' TERM INT

# step NAME LIMIT COMMAND...: runs a command for at most LIMIT seconds, or less where less is left of the part.
step() {
    local name=$1 limit=$2 left=$((end - SECONDS)) began=$SECONDS status
    shift 2
    if [ "$left" -lt 15 ]; then
        echo "$part-$name: left out, $left s were left" >>"$summary"
        return
    fi
    [ "$limit" -lt "$left" ] || limit=$left
    timeout -s INT -k 10 "$limit" "$@" >"$OUT/$part-$name.log" 2>&1
    status=$?
    [ "$status" = 0 ] || failed=1
    echo "$part-$name: exit $status, $((SECONDS - began)) s of at most $limit" >>"$summary"
    tail -n 15 "$OUT/$part-$name.log" | cut -c1-200
}

# unpack NAME: an archive of the bundle, once.
unpack() {
    cmp -s .gpu/made-of "$SITE/$1.made-of" && return
    rm -rf "${SITE:?}/$1"
    mkdir -p "$SITE/$1" && tar -C "$SITE/$1" -xJf ".gpu/$1.tar.xz" && cp .gpu/made-of "$SITE/$1.made-of"
}

if [ "$cpu" = no ] && [ -e .gpu/made-of ]; then
    ("$PYTHON" -c 'import torch, transformers, peft, pandas, scipy' >/dev/null 2>&1 &) # from a cold disk, meanwhile
    unpack main &
    [ "$part" != c ] || unpack unsloth &
    "$PYTHON" -c 'import pyarrow; raise SystemExit(int(pyarrow.__version__.split(".")[0]) < 24)' 2>/dev/null
    own_arrow=$?
    [ "$own_arrow" = 0 ] || unpack pyarrow
    wait
    PYTHONPATH=$PWD/src:$SITE/main$([ "$own_arrow" = 0 ] || echo ":$SITE/pyarrow")${outside:+:$outside}
    echo "part $part: unpacked after $SECONDS s; pyarrow is $([ "$own_arrow" = 0 ] && echo there || echo carried)" >>"$summary"
fi
{ nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null || echo "no GPU"; } \
    >>"$summary"

VERSIONS='
import importlib.metadata as m, sys
names = ("torch", "triton", "transformers", "peft", "trl", "liger-kernel", "datasets", "pyarrow", "bitsandbytes", "numpy")
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in reversed(list(m.distributions()))}
print("Python", sys.version.split()[0], *(f"{name} {found.get(name, None)}" for name in names))
'
"$PYTHON" -c "$VERSIONS" >>"$summary" 2>&1
bench=("$PYTHON" benchmarks/sft_gpu.py --only tunesmith)
if [ "$cpu" = yes ]; then
    export CUDA_VISIBLE_DEVICES= GPU_TESTS_ON=cpu
    tests=(tests/gpu/test_gpu_attention.py tests/gpu/test_gpu_weights.py) # the quick ones
    full=tiny-full-64 mixed=tiny-lora-64-mixed large=tiny-lora-64 lora=tiny-lora-64 decoding=(--device cpu --size tiny --dtype bfloat16)
    loss=(--device cpu --positions 64 --width 32 --words 500)
    demo=(train "$PWD/src/tunesmith/assets/demo.yaml" --set optim.epochs=1 --set data.replay=off --set evaluate.rows=4
        --set evaluate.general_ability=off --set compile=off)
else
    full=1b-full-2048 mixed=1b-lora-2048-mixed large=8b-lora-2048 lora=1b-lora-2048 decoding=(--device cuda --size 1b)
    loss=(--device cuda)
    tests=(tests/gpu/test_gpu_{attention,recorded,loss}.py tests/gpu) demo=(demo)  # what others stand on comes first
fi

case "$part" in # a benchmark's own limits are shorter than its step's, so that it prints its table
a)
    step tests 130 "$PYTHON" -m pytest -q -rfE -p no:cacheprovider -o addopts= -W default --durations=15 -m gpu "${tests[@]}"
    step demo 110 env -C "$scratch" "$PYTHON" -c "from tunesmith.cli.main import run; run()" "${demo[@]}" # goal: 60 s
    for file in report/report.json plan.json metrics.jsonl; do
        cp "$scratch/runs/demo/$file" "$OUT/demo-${file##*/}" 2>/dev/null
    done
    ;;
b)
    step full 107 "${bench[@]}" "with Liger" --case "$full" --seconds 70 --minutes 1.7
    step lora 133 "${bench[@]}" "with Liger" --case "$mixed" --seconds 90 --minutes 2.1
    ;;
c)
    step decode 75 "$PYTHON" benchmarks/decode.py "${decoding[@]}"
    step loss 40 env PYTHONPATH="$PYTHONPATH:$SITE/unsloth" "$PYTHON" benchmarks/loss.py "${loss[@]}" # cut cross-entropy too
    step large 97 "${bench[@]}" "with Liger" --case "$large" --seconds 60 --minutes 1.5
    PYTHONPATH=$PWD/src:$SITE/unsloth${PYTHONPATH#"$PWD/src"}
    step unsloth 130 "${bench[@]}" Unsloth --case "$lora" --seconds 90 --minutes 2
    ;;
esac
exit "$failed"
