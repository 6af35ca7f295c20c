#!/usr/bin/env bash
# Perplexity of language models with the attention variants.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/language_modeling/compare.sh [--config small|full] [--corpus CORPUS] [--data-dir DIR] [--out OUT]
                                             [--variants VARIANT,...] [-- FAIRSEQ-TRAIN OPTIONS...]

Trains a language model for each attention variant and prints their perplexities on the test part, with their parameters.

--config small  3 layers of width 128, on wikitext-2-valid: the validation part of WikiText-2 as training text (default;
                21 minutes of training on 2 cores for mha, mhe-mul, mhe-add, mqa and sha)
--config full   the shape of GPT-2 small (transformer_lm_gpt) on wikitext-103, as fairseq's example trains its language
                model, 50,000 updates: mha (which is stock) and mhe-mul; needs a GPU
--corpus        another corpus: wikitext-2-valid, wikitext-2, wikitext-103, ptb
--data-dir      where its text lies; without it the text is downloaded
--out           gets everything (default: results/CORPUS)
--variants      train only these now, comma-separated (from several shells, say)
--              what follows is added to the options of fairseq-train, and wins

Training resumes where it stopped, and a model that is finished is not trained again.
HELP
}
CONFIG=small CORPUS='' DATA_DIR='' OUT='' VARIANTS=''
read_options "config corpus data-dir out variants --" "$@"
[[ $CONFIG == small || $CONFIG == full ]] || fail "--config $CONFIG: it is small or full"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"

# What a configuration sets: CORPUS, VARIANTS, PREPROCESS, ARCH, TRAINING, CHECKPOINT, EVALUATION.
small() {
    CORPUS="${CORPUS:-wikitext-2-valid}" ARCH=mhe_transformer_lm CHECKPOINT=checkpoint_last
    VARIANTS="${VARIANTS:-mha,mhe-mul,mhe-add,mqa,sha}"
    PREPROCESS=(--thresholdsrc 3)
    TRAINING=(--decoder-layers 3 --decoder-embed-dim 128 --decoder-input-dim 128
        --decoder-output-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4
        --share-decoder-input-output-embed --dropout 0.2 --attention-dropout 0.1 --optimizer adam
        --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.003 --lr-scheduler inverse_sqrt --warmup-updates 100
        --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --max-epoch 4 --seed 1
        --disable-validation)
    EVALUATION=(--tokens-per-sample 128 --batch-size 32)
}

full() {
    CORPUS="${CORPUS:-wikitext-103}" ARCH=mhe_transformer_lm_gpt CHECKPOINT=checkpoint_best
    VARIANTS="${VARIANTS:-mha,mhe-mul}"
    PREPROCESS=()
    local gpus
    gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
    # fairseq's example has two GPUs, each with 16 batches an update
    TRAINING=(--share-decoder-input-output-embed --dropout 0.1 --optimizer adam --adam-betas '(0.9, 0.98)'
        --weight-decay 0.01 --clip-norm 0.0 --lr 0.0005 --lr-scheduler inverse_sqrt --warmup-updates 4000
        --warmup-init-lr 1e-07 --tokens-per-sample 512 --sample-break-mode none --max-tokens 2048
        --update-freq $((32 / (gpus > 1 ? gpus : 1))) --max-update 50000 --seed 1)
    ((gpus == 0)) || TRAINING+=(--fp16)
    EVALUATION=(--tokens-per-sample 512 --context-window 400 --batch-size 2)
}

"$CONFIG"
OUT="${OUT:-results/$CORPUS}"
mkdir -p "$OUT"
if [[ ! -f $OUT/bin/dict.txt ]]; then
    TRAIN=train
    [[ $CORPUS == *-valid ]] && TRAIN=valid
    python -m examples.language_modeling.prepare "$OUT/text" --corpus "${CORPUS%-valid}" --train "$TRAIN" \
        ${DATA_DIR:+--data-dir "$DATA_DIR"}
    rm -rf "$OUT/bin.part"
    fairseq-preprocess --only-source "${PREPROCESS[@]}" --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

for variant in ${VARIANTS//,/ }; do
    RUN="$OUT/$variant-1"
    COMMAND=(fairseq-train "$OUT/bin" --user-dir el_fairseq --task language_modeling --arch "$ARCH"
        --attention-variant "$variant" "${TRAINING[@]}" --no-epoch-checkpoints --save-dir "$RUN/checkpoints"
        --tensorboard-logdir "$RUN/tensorboard" --log-format simple --log-interval 50 "${MORE[@]}")
    is_finished "$RUN" "${COMMAND[@]}" && continue
    mkdir -p "$RUN"
    echo "training $RUN (log: $RUN/train.log)"
    python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
        sed -unE 's/.* train \| epoch ([0-9]+) .* ppl ([0-9.e+]+) .*/epoch \1, training perplexity \2/p'
    fairseq-eval-lm "$OUT/bin" --user-dir el_fairseq --path "$RUN/checkpoints/$CHECKPOINT.pt" --gen-subset test \
        "${EVALUATION[@]}" >"$RUN/eval.log" 2>&1
    {
        say_how "${COMMAND[@]}"
        grep -hE "attention variant|num\. shared model params|train \| epoch|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
        grep -hoE "Loss \(base 2\).*" "$RUN/eval.log"
    } >"$RUN/summary.part"
    mv "$RUN/summary.part" "$RUN/summary.log"
done
[[ ! -f $OUT/mha-1/summary.log ]] || python -m examples.language_modeling.table "$OUT"
echo
echo "Trained: ${VARIANTS//,/ }. Logs, checkpoints and what TensorBoard shows (tensorboard --logdir $OUT) are in $OUT."
