#!/usr/bin/env bash
# What was tried to make the attention variants better on Multi30k: one run each, judged on the validation part.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/explore.sh [--out OUT] [--data-dir DIR] [--runs NAME,...] [--jobs N]

Prepares Multi30k (downloaded, or from DIR), trains and scores a model with seed 1 for each run (4 epochs take some 10
minutes, where two train at once on 2 cores), and prints the table. Everything is written to OUT (default:
results/multi30k-explored); a model that is finished is not trained again.

--runs  some of those that the script lists, by name (default: all)
--jobs  trainings at once (default: 2), each with its share of the cores
HELP
}
OUT=results/multi30k-explored DATA_DIR='' RUNS='' JOBS=2
read_options "out data-dir runs jobs" "$@"
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || fail "--jobs $JOBS: it is a number of trainings, at least 1"

# NAME EPOCHS AVERAGE, and what differs from options.sh; the variant is what NAME begins with.
FOUR_HEADS="--encoder-attention-heads 4 --decoder-attention-heads 4"
START="--restore-file $OUT/signs.pt --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler"
LIST="
mha-base 4 1 $FOUR_HEADS --max-tokens 4096
mhe-mul-base 4 1 $FOUR_HEADS --max-tokens 4096
mha-1024 4 1 $FOUR_HEADS
mhe-mul-1024 4 1 $FOUR_HEADS
mha-lr2 4 1 $FOUR_HEADS --lr 0.002
mhe-mul-lr2 4 1 $FOUR_HEADS --lr 0.002
mha-lr6 4 1 $FOUR_HEADS --lr 0.006
mhe-mul-lr6 4 1 $FOUR_HEADS --lr 0.006
mhe-mul-std02 4 1 $FOUR_HEADS --head-embed-std 0.2
mhe-mul-std1 4 1 $FOUR_HEADS --head-embed-std 1.0
mha-2heads 4 1
mhe-mul-2heads 4 1
mhe-mul-2heads-std02 4 1 --head-embed-std 0.2
mhe-mul-signs 4 1 $START
mhe-mul-where-encoder-decoder 4 1 --attention-variant-where encoder,decoder
mha-16-last 16 1
mhe-mul-16-last 16 1
mha-16 16 4
mhe-mul-16 16 4
"
chosen=()
for name in ${RUNS//,/ }; do
    line="$(grep -E "^$name " <<<"$LIST")" || fail "--runs $name: there is no such run, see LIST in $0"
    chosen+=("$line")
done
((${#chosen[@]})) || mapfile -t chosen < <(grep . <<<"$LIST")
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/translation/options.sh
source "$HERE/options.sh"

"$HERE/prepare.sh" --out "$OUT" ${DATA_DIR:+--data-dir "$DATA_DIR"}
if [[ " ${chosen[*]}" == *" mhe-mul-signs "* && ! -f $OUT/signs.pt ]]; then
    set_options mhe-mul
    # a checkpoint as training starts from it: one update too small to count
    fairseq-train "$OUT/bin" "${OPTIONS[@]}" --no-epoch-checkpoints --seed 1 --save-dir "$OUT/start" --lr 1e-9 \
        --max-update 1 >"$OUT/start.log" 2>&1
    python -m examples.translation.signs "$OUT/start/checkpoint_last.pt" "$OUT/signs.pt"
fi
SHARE=$(($(nproc) / JOBS))
for line in "${chosen[@]}"; do
    read -r name epochs average options <<<"$line"
    [[ $name == mha* ]] && variant=mha || variant=mhe-mul
    echo "--variant $variant --name $name --epochs $epochs --average $average --${options:+ $options}" # a blank at its end would join two lines
done | OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((SHARE > 1 ? SHARE : 1))}" xargs -L 1 -P "$JOBS" "$HERE/train.sh" --out "$OUT" ||
    fail "a model was not finished (see above). What is finished is kept: the same command goes on"
python -m examples.translation.explored "$OUT"
