#!/usr/bin/env bash
# Train one attention variant on prepared data, translate the test part, score it, and keep what the table needs.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/train.sh --variant VARIANT [--seed N] [--epochs N] [--average N] [--name NAME]
                                     [--out OUT] [-- FAIRSEQ-TRAIN OPTIONS...]

Trains 3+3 layers of width 128 with 2 heads on OUT/bin (from prepare.sh; default OUT: results/multi30k): about 35
minutes on one core. Then it chooses --lenpen (1.0, 1.5, 2.0 or 2.5) by BLEU on the validation part, translates the test
part, and scores it. Everything is written to OUT/NAME-SEED; training resumes where it stopped.
OUT/NAME-SEED/summary.log is what table.py reads.

--variant  mhe-mul, mhe-add, mqa, sha, mha, or stock (stock's own architecture)
--seed     default: 1
--epochs   default: 16
--average  translate with the mean of the parameters after each of the last N epochs (default: 4, or all if there are fewer)
--name     what to call the run (default: VARIANT)
--         what follows is added to the options of fairseq-train, and wins
HELP
}
OUT=results/multi30k VARIANT='' SEED=1 EPOCHS=16 AVERAGE='' NAME=''
read_options "out variant seed epochs average name --" "$@"
[[ -n $VARIANT ]] || fail "--variant is needed (--help lists them)"
check_names --variant "$VARIANT" "mha mhe-mul mhe-add mqa sha stock"
[[ $EPOCHS =~ ^[1-9][0-9]*$ ]] || fail "--epochs $EPOCHS: it is a number of epochs, at least 1"
AVERAGE="${AVERAGE:-$((EPOCHS < 4 ? EPOCHS : 4))}"
[[ $AVERAGE =~ ^[1-9][0-9]*$ && $AVERAGE -le $EPOCHS ]] || fail "--average $AVERAGE: it is a number of epochs, 1 to $EPOCHS"
[[ $AVERAGE == 1 || " ${MORE[*]}" != *" --max-"[eu]p* ]] ||
    fail "--average $AVERAGE counts the epochs of --epochs: --max-epoch and --max-update need --average 1"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"
# shellcheck source=examples/translation/options.sh
source "$HERE/options.sh"

RUN="$OUT/${NAME:-$VARIANT}-$SEED"
set_options "$VARIANT"
[[ $AVERAGE == 1 ]] && KEEP=(--no-epoch-checkpoints) || KEEP=(--keep-last-epochs "$AVERAGE")
COMMAND=(fairseq-train "$OUT/bin" "${OPTIONS[@]}" "${KEEP[@]}" --max-epoch "$EPOCHS" --seed "$SEED"
    --save-dir "$RUN/checkpoints" --tensorboard-logdir "$RUN/tensorboard" --log-interval 100 "${MORE[@]}")

CHECKPOINT="$RUN/checkpoints/checkpoint_last.pt" LENPENS="1.0 1.5 2.0 2.5"

translate() { # SUBSET LENPEN
    fairseq-generate "$OUT/bin" --user-dir el_fairseq --task el_translation --path "$CHECKPOINT" --gen-subset "$1" --beam 5 \
        --lenpen "$2" --batch-size 64 --required-batch-size-multiple 1 --remove-bpe sentencepiece --scoring sacrebleu \
        >"$RUN/generate.$1.$2" 2>&1
}

if ! is_finished "$RUN" "${COMMAND[@]}"; then
    mkdir -p "$RUN"
    echo "training $RUN (log: $RUN/train.log)"
    python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
        sed -unE "s/.*epoch ([0-9]+):.* nll_loss=([0-9.]+),.* num_updates=([0-9]+),.*/${NAME:-$VARIANT}-$SEED: epoch \1 of $EPOCHS, update \3, nll_loss \2/p" ||
        fail "training failed; the log is $RUN/train.log"
    if [[ $AVERAGE != 1 ]]; then
        CHECKPOINT="$RUN/checkpoints/averaged.pt"
        python scripts/average_checkpoints.py --inputs "$RUN/checkpoints" --num-epoch-checkpoints "$AVERAGE" \
            --checkpoint-upper-bound "$EPOCHS" --output "$CHECKPOINT"
    fi
    fairseq-validate "$OUT/bin" --user-dir el_fairseq --task translation --criterion label_smoothed_cross_entropy \
        --label-smoothing 0.1 --path "$CHECKPOINT" --valid-subset valid,test --batch-size 64 \
        --required-batch-size-multiple 1 >"$RUN/validate.log" 2>&1
    for lenpen in $LENPENS; do
        translate valid "$lenpen"
        echo "lenpen $lenpen: validation $(grep -o "BLEU = [0-9.]*" "$RUN/generate.valid.$lenpen")"
    done | tee "$RUN/lenpen.log"
    # the best on the validation part, of equals the smallest
    LENPEN="$(sed -E 's/lenpen ([0-9.]+): .* = ([0-9.]+)/\2 \1/' "$RUN/lenpen.log" | sort -k1,1nr -k2,2n | head -1 | cut -d' ' -f2)"
    translate test "$LENPEN"
    grep ^D- "$RUN/generate.test.$LENPEN" | cut -c3- | sort -n | cut -f3 >"$RUN/hypotheses.de"
    sacrebleu "$OUT/text/raw.test.de" -i "$RUN/hypotheses.de" -m bleu chrf -w 4 >"$RUN/scores.json"
    {
        say_how "${COMMAND[@]}"
        grep -hE "attention variant|num\. shared model params|train \| epoch|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
        grep -h "valid on" "$RUN/validate.log" | sed 's/^[^|]*|[^|]*| //'
        echo "averaged: $AVERAGE"
        cat "$RUN/lenpen.log"
        echo "lenpen: $LENPEN"
        grep -h "decoder state" "$RUN/generate.test.$LENPEN" | cut -d'|' -f4-
        echo "scores: $(tr -d '\n' <"$RUN/scores.json")"
    } >"$RUN/summary.part"
    mv "$RUN/summary.part" "$RUN/summary.log"
fi
grep "^lenpen: " "$RUN/summary.log"
python -c 'import json, sys; print(*(x for each in json.load(open(sys.argv[1])) for x in (each["name"], each["score"])))' \
    "$RUN/scores.json"
