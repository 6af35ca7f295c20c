#!/usr/bin/env bash
# Fine-tune a pretrained model on one classification task, and keep what the table needs.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/masked_language_model/finetune.sh --variant VARIANT --task TASK [--config small|full] [--out OUT]
                                                  [--seed N] [--from-scratch] [-- FAIRSEQ-TRAIN OPTIONS...]

Trains OUT/VARIANT-1 (from pretrain.sh; default OUT: results/masked-lm-CONFIG) on OUT/bin/TASK and measures accuracy on
its validation and test parts after each epoch. The best model by the validation part is kept in OUT/VARIANT-1/TASK-SEED;
its summary.log is what table.py reads.

--variant       mha, mhe-mul, mhe-add, mqa or sha
--task          small: mr, subj, sst-2, trec; full: sst-2, rte, qnli, mnli, qqp
--config        small (default) or full
--seed          default: 1
--from-scratch  without pretraining, in OUT/VARIANT-scratch
--              what follows is added to the options of fairseq-train, and wins
HELP
}
CONFIG=small OUT='' VARIANT='' TASK='' SEED=1 FROM_SCRATCH=''
read_options "config out variant task seed from-scratch:0 --" "$@"
[[ -n $VARIANT && -n $TASK ]] || fail "--variant and --task are needed (--help lists them)"
check_names --variant "$VARIANT" "mha mhe-mul mhe-add mqa sha"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"
# shellcheck source=examples/masked_language_model/options.sh
source "$HERE/options.sh"
set_options "$CONFIG"
OUT="${OUT:-results/masked-lm-$CONFIG}"
[[ " $TASKS" == *" $TASK:"* ]] || fail "--task $TASK: --config $CONFIG has ${TASKS//:[0-9]/}"
set_fine_tuning "$CONFIG" "$TASK"
CLASSES="${TASKS##*"$TASK:"}" BODY="$OUT/$VARIANT-1/checkpoints/checkpoint_last.pt"
if [[ -n $FROM_SCRATCH ]]; then
    RUN="$OUT/$VARIANT-scratch/$TASK-$SEED" START=()
else
    RUN="$OUT/$VARIANT-1/$TASK-$SEED"
    START=(--restore-file "$BODY" --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler)
fi
# shellcheck disable=SC2054 # one option, two subsets
COMMAND=(fairseq-train "$OUT/bin/$TASK" --user-dir el_fairseq --task sentence_prediction --criterion sentence_prediction
    --num-classes "${CLASSES%% *}" --init-token 0 --separator-token 2 --shorten-method truncate --arch "$ARCH"
    --attention-variant "$VARIANT" "${MODEL[@]}" "${FINE_TUNING[@]}"
    --seed "$SEED" --valid-subset valid,test --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric
    --required-batch-size-multiple 1 --no-epoch-checkpoints --save-dir "$RUN" --log-format simple --log-interval 100)
WHOLE=("${COMMAND[@]}" "${START[@]}" "${MORE[@]}")
if is_finished "$RUN" "${WHOLE[@]}"; then
    echo "fine-tuned already: $RUN"
    exit 0
fi
if [[ -f $RUN/checkpoint_last.pt ]]; then
    START=() # goes on from there
elif [[ -z $FROM_SCRATCH && ! -f $OUT/$VARIANT-1/summary.log ]]; then
    fail "$OUT/$VARIANT-1 is not pretrained, or not to its end: run pretrain.sh --variant $VARIANT first"
fi

mkdir -p "$RUN"
python scripts/lib/measure.py "${COMMAND[@]}" "${START[@]}" "${MORE[@]}" >>"$RUN/train.log" 2>&1 ||
    fail "training failed; the log is $RUN/train.log"
{
    say_how "${WHOLE[@]}"
    grep -hE "valid on|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
} >"$RUN/summary.part"
mv "$RUN/summary.part" "$RUN/summary.log"
rm -f "$RUN/checkpoint_last.pt"
echo "$RUN: $(grep "valid on 'test'" "$RUN/summary.log" | tail -1 | grep -o 'accuracy [0-9.]*' || true) after the last epoch"
