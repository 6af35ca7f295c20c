#!/usr/bin/env bash
# Everything worth knowing on a GPU, without internet: tests, the kernels against the floor, decoding, memory.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/lib/options.sh"
usage() {
    cat <<'HELP'
usage: scripts/gpu_suite.sh [--out DIR] [--only STAGE,...] [--resume] [--cpu]

Runs what needs a GPU, in under 9 minutes and without internet, and writes to DIR (default: results). First what is right:

    kernels     the Triton kernels against their oracles
    searches    every search, captured as CUDA graphs, against stock's

then what it gains:

    attention   one step of cross-attention, and the kernel alone, against the floor   attention.jsonl
    bart        BART-large, sources of 1,024 tokens, 140 new ones, batches 1 and 32,
                with and without CUDA graphs                                           bart.jsonl
    gpt2        GPT-2 medium, prompts of 512 tokens                                    gpt2.jsonl
    base        Transformer base, short sentences                                      base.jsonl
    memory      what a decoder keeps of the source                                     memory.jsonl
    largest     BART-large, large batches                                              largest.jsonl
    budget      BART-large in 16 GiB                                                   budget.jsonl

Every stage has its share of the time. One that fails or runs out of it keeps the rows it has written, the next ones
follow, and the exit status is 1 at the end. The last ten lines say what held and what did not (DIR/summary.txt);
DIR/gpu_suite.tar.gz is what to send to the maintainers: what was printed (report.txt), how each stage ended
(stages.jsonl), and all rows.

* --only: just these stages, comma-separated. What they wrote to DIR earlier is replaced, what the others wrote stays.
* --resume: leave out the stages that have passed in DIR already, with the same commit, and on a GPU (or --cpu) as now.
* --cpu: small shapes in float32 on the CPU, to try the suite itself; its numbers say nothing about a GPU, and it may
  take longer.
* Python is that of .venv, or the first of python and python3 that has PyTorch. Nothing is installed.
HELP
}

die() {
    printf 'gpu_suite.sh: %s\n' "$1" >&2
    exit 1
}

STAGES=(kernels searches attention bart gpt2 base memory largest budget)
OUT=results ONLY='' CPU='' RESUME=''
read_options "out only resume:0 cpu:0" "$@"
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
    if [[ -n $RESUME && $COMMIT != unknown ]] && last_row "$name" | grep -qF "$(row "$name" passed)"; then
        printf '\n== %s: passed already\n' "$name"
        return
    fi
    rm -f "$OUT/$name.jsonl"
    printf '\n== %s, at most %s s: %s\n' "$name" "$limit" "$*"
    timeout --kill-after=5 "$limit" "$@" </dev/null || status=$?
    case $status in
        0) ;;
        124) ended="out of time" ;;
        137) ended="killed" ;; # by Linux, for its memory; or by timeout, some seconds after the limit
        *) ended=failed ;;
    esac
    printf '\n== %s: %s, %s s\n' "$name" "$ended" $((SECONDS - started))
    printf '%s, "status": %s, "seconds": %s}\n' "$(row "$name" "$ended")" "$status" $((SECONDS - started)) \
        >>"$OUT/stages.jsonl"
}

row() { # NAME ENDED: the beginning of its row
    printf '{"stage": "%s", "on": "%s", "commit": "%s", "ended": "%s"' "$1" "${CPU:+CPU}" "$COMMIT" "$2"
}

last_row() { # NAME
    { grep -sF "\"stage\": \"$1\"" "$OUT/stages.jsonl" || true; } | tail -n 1
}

bench() { # NAME SECONDS FILE SCRIPT OPTIONS...: a benchmark whose rows go to FILE; SCRIPT: a path, or -m and a module
    stage "$1" "$2" "$PYTHON" "${@:4}" --json "$OUT/$3"
}

on_gpu() {
    local bart=(--arch bart_large --source 1024 --shortest 1024 --tokens 140 --no-repeat-ngram-size 3 --fp16 --modes auto)
    stage kernels 35 "$PYTHON" -m pytest -m cuda -n 4 -p no:cacheprovider tests/ops tests/modules tests/cuda/test_attention.py
    stage searches 85 "$PYTHON" -m pytest -m cuda -k 'not fuzz' -n 4 -p no:cacheprovider tests/cuda/test_searches.py \
        tests/cuda/test_generation.py tests/generation
    bench attention 50 attention.jsonl scripts/bench_attention.py --batch 1,8,64 --dim 768,1024 --dtype float16
    bench bart 110 bart.jsonl scripts/bench_decode.py "${bart[@]}" --modes auto,eager --batch 1,32 --rounds 3
    bench gpt2 45 gpt2.jsonl scripts/bench_decode.py --arch gpt2_medium --source 512 --shortest 512 --tokens 64 --fp16 \
        --modes auto --batch 1,32 --rounds 3
    bench base 40 base.jsonl scripts/bench_decode.py --arch base --source 40 --tokens 40 --fp16 --modes auto \
        --batch 1,64,512 --rounds 3
    bench memory 35 memory.jsonl -m scripts.bench.state --batch 32,320 --source 256,1024
    bench largest 55 largest.jsonl scripts/bench_decode.py "${bart[@]}" --batch 128,320 --rounds 1
    bench budget 55 budget.jsonl scripts/bench_decode.py "${bart[@]}" --batch 16,64,128 --rounds 1 --memory-budget 16
}

on_cpu() { # without haste: the machine may be a slow one
    local tiny=(--cpu --arch base --source 6 --tokens 3 --beam 2 --rounds 1 --modes auto)
    stage kernels 600 "$PYTHON" -m pytest -p no:cacheprovider tests/ops/test_kernels.py
    stage searches 600 "$PYTHON" -m pytest -p no:cacheprovider tests/generation/test_cuda_graph.py
    bench attention 600 attention.jsonl scripts/bench_attention.py --cpu --batch 2 --source 8 --dim 64 --heads 4 --rounds 2
    bench bart 600 bart.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 2 --no-repeat-ngram-size 3
    bench gpt2 600 gpt2.jsonl scripts/bench_decode.py "${tiny[@]}" --arch gpt2_small --batch 2
    bench base 600 base.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 1,2
    bench memory 600 memory.jsonl -m scripts.bench.state --cpu --arch base --batch 1 --source 8 --beam 2 --dtype float32
    bench largest 600 largest.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 4
    bench budget 600 budget.jsonl scripts/bench_decode.py "${tiny[@]}" --batch 8 --memory-budget 4
}

suite() {
    printf '\n== gpu_suite.sh, commit %s\n' "$COMMIT"
    "$PYTHON" -c 'import platform, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}")'
    if [[ -n $CPU ]]; then on_cpu; else on_gpu; fi
}

all_passed() { # the last row of a stage counts
    local name
    for name in "${WANTED[@]}"; do
        last_row "$name" | grep -q '"ended": "passed"' || return 1
    done
}

cd "$PROJECT"
PYTHON="$(find_python)"
COMMIT="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
[[ -n $CPU ]] || "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
    die "PyTorch ($PYTHON) finds no GPU; --cpu tries the suite without one"
"$PYTHON" -c 'import fairseq' >/dev/null 2>&1 || die "$PYTHON has no fairseq: $("$PYTHON" -c 'import fairseq' 2>&1 | tail -n 1)"
mkdir -p "$OUT"
if [[ -z $RESUME && -f $OUT/stages.jsonl ]]; then # what is not run now keeps its rows
    grep -vE "\"stage\": \"($(IFS='|'; echo "${WANTED[*]}"))\"" "$OUT/stages.jsonl" >"$OUT/stages.part" || true
    mv "$OUT/stages.part" "$OUT/stages.jsonl"
fi
[[ -n $RESUME || -n $ONLY ]] || rm -f "$OUT/report.txt"
suite 2>&1 | tee -a "$OUT/report.txt"
"$PYTHON" -m scripts.bench.gpu_summary "$OUT" >"$OUT/summary.txt"
FILES=(report.txt summary.txt stages.jsonl)
for name in "${STAGES[@]}"; do
    [[ ! -f $OUT/$name.jsonl ]] || FILES+=("$name.jsonl")
done
tar -czf "$OUT/gpu_suite.tar.gz" -C "$OUT" "${FILES[@]}"
printf '\n== summary\n'
cat "$OUT/summary.txt"
echo "to send: $OUT/gpu_suite.tar.gz (after $SECONDS s)"
all_passed
