#!/usr/bin/env bash
# Pretrain a masked language model with one attention variant, and keep what the table needs.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/masked_language_model/pretrain.sh --variant VARIANT [--config small|full] [--out OUT] [--seed N]
                                                  [-- FAIRSEQ-TRAIN OPTIONS...]

Trains on OUT/bin/pretrain (from prepare.sh; default OUT: results/masked-lm-CONFIG). Everything is written to
OUT/VARIANT-SEED; training resumes where it stopped. OUT/VARIANT-SEED/summary.log is what table.py reads.

--variant  mha, mhe-mul, mhe-add, mqa or sha
--config   small (4 layers of width 128; default) or full (mhe_roberta_base; needs GPUs)
--seed     default: 1
--         what follows is added to the options of fairseq-train, and wins
HELP
}
CONFIG=small OUT='' VARIANT='' SEED=1
read_options "config out variant seed --" "$@"
[[ -n $VARIANT ]] || fail "--variant is needed (--help lists them)"
check_names --variant "$VARIANT" "mha mhe-mul mhe-add mqa sha"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"
# shellcheck source=examples/masked_language_model/options.sh
source "$HERE/options.sh"
set_options "$CONFIG"
OUT="${OUT:-results/masked-lm-$CONFIG}"
RUN="$OUT/$VARIANT-$SEED"
COMMAND=(fairseq-train "$OUT/bin/pretrain" --user-dir el_fairseq --task masked_lm --criterion masked_lm --arch "$ARCH"
    --attention-variant "$VARIANT" "${MODEL[@]}" --lr-scheduler polynomial_decay "${PRETRAINING[@]}" --seed "$SEED"
    --required-batch-size-multiple 1 --no-epoch-checkpoints --keep-interval-updates 1 --save-dir "$RUN/checkpoints"
    --tensorboard-logdir "$RUN/tensorboard" --log-format simple --log-interval 50 "${MORE[@]}")
if is_finished "$RUN" "${COMMAND[@]}"; then
    echo "pretrained already: $RUN"
    exit 0
fi

mkdir -p "$RUN"
echo "pretraining $RUN (log: $RUN/train.log)"
python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
    sed -unE "s/.* valid on 'valid' subset .* ppl ([0-9.e+]+) .* num_updates ([0-9]+).*/$VARIANT, update \2: held-out masked perplexity \1/p" ||
    fail "training failed; the log is $RUN/train.log"
{
    say_how "${COMMAND[@]}"
    grep -hE "attention variant|num\. shared model params|valid on|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
} >"$RUN/summary.part"
mv "$RUN/summary.part" "$RUN/summary.log"
