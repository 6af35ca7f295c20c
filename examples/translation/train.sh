#!/usr/bin/env bash
# Train one attention variant on prepared data, translate the test part, score it, and keep what the table needs.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help || $# -lt 2 ]]; then
    echo "usage: examples/translation/train.sh OUT VARIANT [SEED [EPOCHS [FAIRSEQ-TRAIN OPTIONS...]]]"
    echo "Trains 3+3 layers of width 128 with 4 heads on OUT/bin (from prepare.sh): about 12 minutes for 8 epochs on 2"
    echo "cores. VARIANT: mhe-mul, mhe-add, mqa, sha, mha, or stock (stock's own architecture). SEED: 1, EPOCHS: 8 if not"
    echo "given. Further options come last, and so win. Everything is written to OUT/VARIANT-SEED (or OUT/\$NAME-SEED);"
    echo "training resumes where it stopped. OUT/VARIANT-SEED/summary.log is what table.py reads."
    [[ ${1:-} == --help ]] && exit 0 || exit 2
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

# shellcheck source=examples/translation/options.sh
source "$HERE/options.sh"

OUT="$1" VARIANT="$2" SEED="${3:-1}" EPOCHS="${4:-8}"
shift $(($# < 4 ? $# : 4))
RUN="$OUT/${NAME:-$VARIANT}-$SEED"
mkdir -p "$RUN"
set_options "$VARIANT"
COMMAND=(fairseq-train "$OUT/bin" "${OPTIONS[@]}" --max-epoch "$EPOCHS" --seed "$SEED" --save-dir "$RUN/checkpoints"
    --tensorboard-logdir "$RUN/tensorboard" --log-interval 100 "$@")

if [[ ! -f $RUN/summary.log ]]; then
    echo "training $RUN (log: $RUN/train.log)"
    python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$RUN/train.log" |
        sed -unE "s/.*epoch ([0-9]+):.* nll_loss=([0-9.]+),.* num_updates=([0-9]+),.*/epoch \1 of $EPOCHS, update \3, nll_loss \2/p"
    fairseq-generate "$OUT/bin" --user-dir el_fairseq --task el_translation --path "$RUN/checkpoints/checkpoint_last.pt" \
        --beam 5 --batch-size 64 --required-batch-size-multiple 1 --remove-bpe sentencepiece >"$RUN/generate.log" 2>&1
    grep ^D- "$RUN/generate.log" | cut -c3- | sort -n | cut -f3 >"$RUN/hypotheses.de"
    sacrebleu "$OUT/text/raw.test.de" -i "$RUN/hypotheses.de" -m bleu >"$RUN/bleu.json"
    {
        echo "command: $(printf '%q ' "${COMMAND[@]}")"
        echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)"
        python -c 'import torch, os; print("torch:", torch.__version__, "cuda:", torch.cuda.is_available(), "cores:", os.cpu_count())'
        grep -hE "attention variant|num\. shared model params|train \| epoch|measured:" "$RUN/train.log" | sed 's/^[^|]*|[^|]*| //'
        grep -h "decoder state" "$RUN/generate.log" | cut -d'|' -f4-
        echo "bleu: $(tr -d '\n' <"$RUN/bleu.json")"
    } >"$RUN/summary.part"
    mv "$RUN/summary.part" "$RUN/summary.log"
fi
python -c 'import json, sys; bleu = json.load(open(sys.argv[1])); print("BLEU", bleu["score"], bleu["signature"])' "$RUN/bleu.json"
