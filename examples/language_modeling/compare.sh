#!/usr/bin/env bash
# Perplexity of language models with the attention variants, on a small corpus.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
    echo "usage: examples/language_modeling/compare.sh [OUT [DATA-DIR [CORPUS [VARIANT...]]]]"
    echo "Trains a language model of 3 layers of width 128 for each attention variant and prints their perplexities on the"
    echo "test part. CORPUS: wikitext-2-valid (default: the validation part of WikiText-2 as training text, about 16 minutes"
    echo "on 2 cores for all five), wikitext-2, ptb or wikitext-103 (the last needs a GPU and bigger models: README.md)."
    echo "VARIANT...: train only these now (from several shells, say). The text is downloaded, or taken from DATA-DIR"
    echo "('' to download). Everything is written to OUT (default: results/CORPUS);"
    echo "training resumes where it stopped, and a model that is finished is not trained again."
    exit 0
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

CORPUS="${3:-wikitext-2-valid}"
OUT="${1:-results/$CORPUS}"
mkdir -p "$OUT"
if [[ ! -f $OUT/bin/dict.txt ]]; then
    TRAIN=train
    [[ $CORPUS == *-valid ]] && TRAIN=valid
    python "$HERE/prepare.py" "$OUT/text" --corpus "${CORPUS%-valid}" --train "$TRAIN" ${2:+--data-dir "$2"}
    fairseq-preprocess --only-source --thresholdsrc 3 --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

VARIANTS=("${@:4}")
[[ $# -gt 3 ]] || VARIANTS=(mha mhe-mul mhe-add mqa sha)
for variant in "${VARIANTS[@]}"; do
    RUN="$OUT/$variant-1"
    [[ -f $RUN/summary.log ]] && continue
    mkdir -p "$RUN"
    echo "training $RUN (log: $RUN/train.log)"
    COMMAND=(fairseq-train "$OUT/bin" --user-dir el_fairseq --task language_modeling --arch mhe_transformer_lm
        --attention-variant "$variant" --decoder-layers 3 --decoder-embed-dim 128 --decoder-input-dim 128
        --decoder-output-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4
        --share-decoder-input-output-embed --dropout 0.2 --attention-dropout 0.1 --optimizer adam
        --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.003 --lr-scheduler inverse_sqrt --warmup-updates 100
        --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --max-epoch 4 --seed 1
        --disable-validation --no-epoch-checkpoints --save-dir "$RUN/checkpoints"
        --tensorboard-logdir "$RUN/tensorboard" --log-format simple --log-interval 50)
    python scripts/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
        sed -unE 's/.* train \| epoch ([0-9]+) .* ppl ([0-9.]+) .*/epoch \1 of 4, training perplexity \2/p'
    fairseq-eval-lm "$OUT/bin" --user-dir el_fairseq --path "$RUN/checkpoints/checkpoint_last.pt" --gen-subset test \
        --tokens-per-sample 128 --batch-size 32 >"$RUN/eval.log" 2>&1
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
