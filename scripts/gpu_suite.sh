#!/usr/bin/env bash
# Everything worth knowing on a GPU, without internet: tests, the kernels against the floor, decoding, memory.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/lib/options.sh"
usage() {
    cat <<'HELP'
usage: scripts/gpu_suite.sh [--out DIR] [--only STAGE,...] [--cpu]

Runs what needs a GPU, in under 9 minutes and without internet, and writes to DIR (default: results):

    tests       the tests that use a GPU, all but the fuzz
    attention   one step of cross-attention, and the kernel alone, against the floor   attention.jsonl
    bart        BART-large, sources of 1,024 tokens, 140 new ones, batches 1 and 32,
                with and without CUDA graphs                                           bart.jsonl
    gpt2        GPT-2 medium, prompts of 512 tokens                                    gpt2.jsonl
    base        Transformer base, short sentences                                      base.jsonl
    memory      what a decoder keeps of the source                                     memory.jsonl
    largest     BART-large, large batches                                              large.jsonl
    budget      BART-large in 16 GiB                                                   large.jsonl

DIR/report.txt is what was printed, DIR/stages.jsonl how each stage ended. Every stage has its share of the time. One that
fails or runs out of it keeps the rows it has written, the next ones follow, and the exit status is 1 at the end.

* --only: just these stages, comma-separated. What a stage wrote to DIR earlier is replaced.
* --cpu: small shapes in float32 on the CPU, to try the suite itself; its numbers say nothing about a GPU, and it may
  take longer.
* Python is that of .venv, or the first of python and python3 that has PyTorch. Nothing is installed.
HELP
}

die() {
    printf 'gpu_suite.sh: %s\n' "$1" >&2
    exit 1
}

STAGES=(tests attention bart gpt2 base memory largest budget)
OUT=results ONLY='' CPU=''
read_options "out only cpu:0" "$@"
IFS=, read -ra WANTED <<<"${ONLY:-$(IFS=,; echo "${STAGES[*]}")}"
for name in "${WANTED[@]}"; do
    [[ " ${STAGES[*]} " == *" $name "* ]] || fail "--only $name: choose of ${STAGES[*]}"
done

find_python() {
    local name
    for name in "$PROJECT/.venv/bin/python" python python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import torch' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    die "no Python with PyTorch: neither .venv/bin/python, nor python, nor python3 on PATH has it"
}

stage() { # NAME SECONDS COMMAND...: run it if it is wanted, for so long at most, and note how it ended
    local name="$1" limit="$2" started=$SECONDS status=0 ended=passed
    shift 2
    [[ " ${WANTED[*]} " == *" $name "* ]] || return 0
    printf '\n== %s, at most %s s: %s\n' "$name" "$limit" "$*"
    timeout --kill-after=5 "$limit" "$@" </dev/null || status=$?
    case $status in
        0) ;;
        124 | 137) ended="out of time" ;;
        *) ended=failed ;;
    esac
    printf '\n== %s: %s, %s s\n' "$name" "$ended" $((SECONDS - started))
    printf '{"stage": "%s", "ended": "%s", "status": %s, "seconds": %s}\n' \
        "$name" "$ended" "$status" $((SECONDS - started)) >>"$OUT/stages.jsonl"
}

bench() { # NAME SECONDS FILE SCRIPT OPTIONS...: a benchmark whose rows go to FILE; SCRIPT: a path, or -m and a module
    stage "$1" "$2" "$PYTHON" "${@:4}" --json "$OUT/$3"
}

on_gpu() {
    local bart=(--arch bart_large --source 1024 --shortest 1024 --tokens 140 --no-repeat-ngram-size 3 --fp16 --modes auto)
    stage tests 85 "$PYTHON" -m pytest -m cuda -k 'not fuzz' -n 4 -p no:cacheprovider \
        tests/cuda tests/ops tests/modules tests/generation
    bench attention 50 attention.jsonl scripts/bench_attention.py --batch 1,8,64 --dim 768,1024 --dtype float16
    bench bart 110 bart.jsonl scripts/bench_decode.py "${bart[@]}" --modes auto,eager --batch 1,32 --rounds 3
    bench gpt2 45 gpt2.jsonl scripts/bench_decode.py --arch gpt2_medium --source 512 --shortest 512 --tokens 64 --fp16 \
        --modes auto --batch 1,32 --rounds 3
    bench base 40 base.jsonl scripts/bench_decode.py --arch base --source 40 --tokens 40 --fp16 --modes auto \
        --batch 1,64,512 --rounds 3
    bench memory 35 memory.jsonl -m scripts.bench.state --batch 32,320 --source 256,1024
    bench largest 70 large.jsonl scripts/bench_decode.py "${bart[@]}" --batch 128,320 --rounds 1
    bench budget 70 large.jsonl scripts/bench_decode.py "${bart[@]}" --batch 16,64,128 --rounds 1 --memory-budget 16
}

on_cpu() { # without haste: the machine may be a slow one
    local tiny=(--cpu --arch base --source 6 --tokens 3 --beam 2 --rounds 1 --modes auto)
    stage tests 600 "$PYTHON" -m pytest -p no:cacheprovider tests/ops/test_kernels.py
    bench attention 600 attention.jsonl scripts/bench_attention.py --cpu --batch 2 --source 8 --dim 64 --heads 4 --rounds 2
    bench bart 600 bart.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 2 --no-repeat-ngram-size 3
    bench gpt2 600 gpt2.jsonl scripts/bench_decode.py "${tiny[@]}" --arch gpt2_small --batch 2
    bench base 600 base.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 1,2
    bench memory 600 memory.jsonl -m scripts.bench.state --cpu --arch base --batch 1 --source 8 --beam 2 --dtype float32
    bench largest 600 large.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 4
    bench budget 600 large.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 8 --memory-budget 4
}

suite() {
    local ended passed
    "$PYTHON" -c 'import platform, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}")'
    if [[ -n $CPU ]]; then on_cpu; else on_gpu; fi
    ended="$(wc -l <"$OUT/stages.jsonl")"
    passed="$(grep -c '"passed"' "$OUT/stages.jsonl" || true)"
    echo
    sed -n 's/.*"stage": "\(.*\)", "ended": "\(failed\|out of time\)".*/\1: \2/p' "$OUT/stages.jsonl"
    echo "gpu_suite.sh: $passed of $ended stages passed in $SECONDS s; results are in $OUT"
    ((passed == ended))
}

cd "$PROJECT"
PYTHON="$(find_python)"
[[ -n $CPU ]] || "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
    die "PyTorch ($PYTHON) finds no GPU; --cpu tries the suite without one"
"$PYTHON" -c 'import fairseq' >/dev/null 2>&1 || die "$PYTHON has no fairseq: $("$PYTHON" -c 'import fairseq' 2>&1 | tail -n 1)"
mkdir -p "$OUT"
rm -f "$OUT/stages.jsonl" "$OUT/report.txt"
for name in "${WANTED[@]}"; do
    rm -f "$OUT/${name/#@(largest|budget)/large}.jsonl"
done
suite 2>&1 | tee "$OUT/report.txt"
