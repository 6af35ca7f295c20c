#!/usr/bin/env bash
# The tables of the EL-attention paper (arXiv 2105.04779), measured here, the published numbers beside them.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/lib/options.sh"
usage() {
    cat <<'HELP'
usage: scripts/reproduce_el_tables.sh [--out DIR] [--data-dir DIR] [--cpu] [--TASK MODEL.pt DATA-BIN]...

Measures and prints: speed by model and task for beam, diverse beam and greedy search; speed by batch size, with out of
memory as a result, also inside a memory budget (16 GiB, the paper's card); memory that the decoder keeps of the source.
Then draws throughput against batch size and memory against source length. Everything is written to DIR (default:
results/el-tables): rows with their commands as speed.jsonl and state.jsonl, tables.md, three PNG files. What is there
already is not measured again. Stock is the fairseq that is installed; "shared K/V" keeps keys and values once a
sentence, EL keeps hidden states. No speed is reported where outputs differ.

--TASK MODEL.pt DATA-BIN   a real checkpoint and its binarised test set; TASK: squad, xsum, cnndm, gpt2_small or
                           gpt2_medium. Without, the model has random weights and the task's shape, and every hypothesis
                           runs to its full length.
--data-dir DIR             texts whose lines give the random sources their lengths: cnndm/test_128.source (for both
                           summarisation tasks) and question_generation/src-test.txt. A word is taken for 1.25 tokens,
                           which is an assumption: it stands for the models' BPE. Without, lengths are uniform between
                           half of the task's longest and the longest.
--cpu                      measure on the CPU even if there is a GPU.

On a GPU (half precision) it measures the paper's shapes; how long that takes has not been measured. On a CPU it
measures a reduced table that says so, sized for about 6 minutes on 2 free cores: Transformer base and BART base (no
GPT-2 medium), shorter sources and hypotheses, small batches, a budget of 0.9 GiB, float32.
HELP
}
OUT=results/el-tables DATA_DIR='' CPU=''
# shellcheck disable=SC2034 # speed reads them by name: a checkpoint and its data, where they are given
SQUAD=() XSUM=() CNNDM=() GPT2_SMALL=() GPT2_MEDIUM=()
read_options "out data-dir cpu:0 squad:2 xsum:2 cnndm:2 gpt2_small:2 gpt2_medium:2" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/environment.sh"
mkdir -p "$OUT"

if [[ -z $CPU ]] && python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    WHERE=gpu
    COMMON=(--fp16 --rounds 2)
    ON_CPU=()
    echo "The paper's shapes on a GPU, in half precision."
else
    WHERE=cpu
    COMMON=(--cpu --rounds 2)
    ON_CPU=(--cpu)
    echo "REDUCED TABLE for a CPU: smaller models, shorter sources and hypotheses, small batches, float32."
fi

decode() { # OPTIONS...: rows of speed.jsonl
    python scripts/bench_decode.py --modes shared,on --json "$OUT/speed.jsonl" --resume "${COMMON[@]}" "$@" \
        2>>"$OUT/log" || { tail -n 15 "$OUT/log" >&2 && exit 1; }
}

speed() { # TASK TEXT SHAPE SEARCHES OPTIONS...: with a checkpoint where one is given
    local task="$1" text="$DATA_DIR/$2" shape="$3" searches="$4"
    local -n checkpoint="${task^^}"
    shift 4
    echo
    echo "-- $task"
    if ((${#checkpoint[@]})); then
        decode --label "$task" --path "${checkpoint[0]}" --data "${checkpoint[1]}" --search "$searches" "$@"
    elif [[ -n $DATA_DIR && $task != gpt2_* ]]; then
        decode --label "$task" --arch "$shape" --search "$searches" --lengths-of "$text" --tokens-per-word 1.25 "$@"
    else
        decode --label "$task" --arch "$shape" --search "$searches" "$@"
    fi
}

ALL=greedy,beam,diverse
QUESTIONS=question_generation/src-test.txt ARTICLES=cnndm/test_128.source
echo
echo "== 1/5 speed by model, task and search"
if [[ $WHERE == gpu ]]; then
    LONG=(--tokens 140 --lenpen 2.0 --no-repeat-ngram-size 3 --beam 4 --source 1024)
    PROMPT=(--source 512 --shortest 512 --tokens 100 --sentences 128 --batch "16,32,64,128" --beam 4)
    ((${#CNNDM[@]})) && LONG+=(--min-tokens 55)
    speed squad "$QUESTIONS" big_270m "$ALL" --source 512 --tokens 32 --sentences 1024 --batch 128,320,1024 --beam 4
    XSUM_OPTIONS=(--source 1024 --tokens 60 --beam 6)
    ((${#XSUM[@]})) && XSUM_OPTIONS+=(--min-tokens 10)
    speed xsum "$ARTICLES" bart_large "$ALL" --sentences 320 --batch 32,128,320 "${XSUM_OPTIONS[@]}"
    speed cnndm "$ARTICLES" bart_large "$ALL" --sentences 320 --batch 32,128,320 "${LONG[@]}"
    speed gpt2_small '' gpt2_small greedy,beam "${PROMPT[@]}"
    speed gpt2_medium '' gpt2_medium greedy,beam "${PROMPT[@]}"
    BY_BATCH=(--arch bart_large --source 1024 --shortest 1024 --tokens 140 --batch "32,64,128,320")
    BUDGET=(--memory-budget 16)
    STATE=(--arch bart_large --batch "32,64,320" --source "256,512,1024" --dtype float16)
else
    speed squad "$QUESTIONS" base "$ALL" --source 512 --tokens 12 --batch 16 --beam 4
    speed xsum "$ARTICLES" bart_base "$ALL" --source 512 --tokens 10 --batch 4 --beam 6
    speed cnndm "$ARTICLES" bart_base "$ALL" --source 1024 --tokens 16 --batch 4 --beam 4 --no-repeat-ngram-size 3
    speed gpt2_small '' gpt2_small greedy,beam --source 64 --shortest 64 --tokens 8 --batch 2 --beam 4
    BY_BATCH=(--arch base --source 512 --shortest 512 --tokens 10 --batch "1,4,16")
    BUDGET=(--memory-budget 0.9)
    STATE=(--arch bart_base --batch 8 --source "128,256,512,1024" --dtype float32)
fi

if ((${#CNNDM[@]})); then
    BY_BATCH+=(--path "${CNNDM[0]}" --data "${CNNDM[1]}")
fi

echo
echo "== 2/5 speed by batch size"
decode --label batch "${BY_BATCH[@]}"
echo
echo "== 3/5 speed by batch size within a memory budget of ${BUDGET[1]} GiB"
decode --label batch-budget "${BY_BATCH[@]}" "${BUDGET[@]}"
echo
echo "== 4/5 memory kept of the source"
python -m scripts.bench.state --json "$OUT/state.jsonl" --resume "${ON_CPU[@]}" "${STATE[@]}" 2>>"$OUT/log" ||
    { tail -n 15 "$OUT/log" >&2 && exit 1; }

echo
echo "== 5/5 tables and figures"
{
    if [[ $WHERE == cpu ]]; then
        echo "**Reduced for a CPU**: the shapes, lengths and batches in the tables are smaller than the paper's."
    fi
    python -m scripts.bench.el_tables "$OUT/speed.jsonl" "$OUT/state.jsonl"
} >"$OUT/tables.md"
cat "$OUT/tables.md"
for label in batch batch-budget; do
    python -m scripts.bench.plot throughput "$OUT/$label.png" "$OUT/speed.jsonl" --label "$label"
done
python -m scripts.bench.plot memory "$OUT/memory.png" "$OUT/state.jsonl"
echo
echo "Done ($WHERE): $(wc -l <"$OUT/speed.jsonl") rows of speed, $(wc -l <"$OUT/state.jsonl") of memory: $OUT/tables.md"
