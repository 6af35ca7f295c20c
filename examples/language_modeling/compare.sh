#!/usr/bin/env bash
# Perplexity of language models with the attention variants.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
usage() {
    cat <<'HELP'
usage: examples/language_modeling/compare.sh [--config small|full] [--corpus CORPUS] [--data-dir DIR] [OUT [VARIANT...]]
                                             [-- FAIRSEQ-TRAIN OPTIONS...]

Trains a language model for each attention variant and prints their perplexities on the test part, with their parameters.

--config small  3 layers of width 128, on wikitext-2-valid: the validation part of WikiText-2 as training text (default;
                21 minutes of training on 2 cores for mha, mhe-mul, mhe-add, mqa and sha)
--config full   the shape of GPT-2 small (transformer_lm_gpt) on wikitext-103, as fairseq's example trains its language
                model, 50,000 updates: mha (which is stock) and mhe-mul; needs a GPU
--corpus        another corpus: wikitext-2-valid, wikitext-2, wikitext-103, ptb
--data-dir      where its text lies; without it the text is downloaded
OUT             gets everything (default: results/CORPUS)
VARIANT...      train only these now (from several shells, say)
--              what follows is added to the options of fairseq-train, and wins

Training resumes where it stopped, and a model that is finished is not trained again.
HELP
}

# What a configuration sets: CORPUS, VARIANTS, PREPROCESS, ARCH, TRAINING, CHECKPOINT, EVALUATION.
small() {
    CORPUS="${CORPUS:-wikitext-2-valid}" ARCH=mhe_transformer_lm CHECKPOINT=checkpoint_last
    VARIANTS=(mha mhe-mul mhe-add mqa sha)
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
    VARIANTS=(mha mhe-mul)
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

CONFIG=small CORPUS='' DATA=() GIVEN=()
while (($#)); do
    case "$1" in
        --help) usage && exit 0 ;;
        --config) CONFIG="${2:?--config needs a value}" && shift ;;
        --corpus) CORPUS="${2:?--corpus needs a value}" && shift ;;
        --data-dir) DATA=(--data-dir "${2:?--data-dir needs a value}") && shift ;;
        --) shift && break ;;
        -*) echo "compare.sh: there is no option $1 (--help lists them)" >&2 && exit 2 ;;
        *) GIVEN+=("$1") ;;
    esac
    shift
done
if [[ $CONFIG != small && $CONFIG != full ]]; then
    echo "compare.sh: --config $CONFIG: it is small or full" >&2
    exit 2
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

"$CONFIG"
OUT="${GIVEN[0]:-results/$CORPUS}"
((${#GIVEN[@]} < 2)) || VARIANTS=("${GIVEN[@]:1}")
mkdir -p "$OUT"
if [[ ! -f $OUT/bin/dict.txt ]]; then
    TRAIN=train
    [[ $CORPUS == *-valid ]] && TRAIN=valid
    python "$HERE/prepare.py" "$OUT/text" --corpus "${CORPUS%-valid}" --train "$TRAIN" "${DATA[@]}"
    rm -rf "$OUT/bin.part"
    fairseq-preprocess --only-source "${PREPROCESS[@]}" --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

for variant in "${VARIANTS[@]}"; do
    RUN="$OUT/$variant-1"
    [[ -f $RUN/summary.log ]] && continue
    mkdir -p "$RUN"
    echo "training $RUN (log: $RUN/train.log)"
    COMMAND=(fairseq-train "$OUT/bin" --user-dir el_fairseq --task language_modeling --arch "$ARCH"
        --attention-variant "$variant" "${TRAINING[@]}" --no-epoch-checkpoints --save-dir "$RUN/checkpoints"
        --tensorboard-logdir "$RUN/tensorboard" --log-format simple --log-interval 50 "$@")
    python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
        sed -unE 's/.* train \| epoch ([0-9]+) .* ppl ([0-9.e+]+) .*/epoch \1, training perplexity \2/p'
    fairseq-eval-lm "$OUT/bin" --user-dir el_fairseq --path "$RUN/checkpoints/$CHECKPOINT.pt" --gen-subset test \
        "${EVALUATION[@]}" >"$RUN/eval.log" 2>&1
    {
        echo "command: $(printf '%q ' "${COMMAND[@]}")"
        echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)"
        python -c 'import torch, os; print("torch:", torch.__version__, "cuda:", torch.cuda.is_available(), "cores:", os.cpu_count())'
        grep -hE "attention variant|num\. shared model params|train \| epoch|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
        grep -hoE "Loss \(base 2\).*" "$RUN/eval.log"
    } >"$RUN/summary.part"
    mv "$RUN/summary.part" "$RUN/summary.log"
done
[[ ! -f $OUT/mha-1/summary.log ]] || python "$HERE/table.py" "$OUT"
echo
echo "Trained: ${VARIANTS[*]}. Logs, checkpoints and what TensorBoard shows (tensorboard --logdir $OUT) are in $OUT."
