#!/usr/bin/env bash
# Train a small BART on the text of --config tiny.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/summarization/train.sh [--out OUT] [--updates N] [-- FAIRSEQ-TRAIN OPTIONS...]

Trains 2+2 layers of width 128 of BART's architecture on OUT/bin (from prepare.sh --config tiny; default OUT:
results/summarization-tiny): N updates (default: 900) take about 5 minutes of a CPU core. ROUGE of the validation part
is logged, also for TensorBoard, in OUT/tensorboard. What follows -- is added to the options of fairseq-train, and wins.
Training resumes where it stopped; the model is OUT/model.pt.
HELP
}
OUT=results/summarization-tiny UPDATES=900
read_options "out updates --" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/summarization/options.sh
source "$HERE/options.sh"

set_options tiny "$OUT"
if [[ ! -f $OUT/model.pt ]]; then
    COMMAND=(fairseq-train "$OUT/bin" --user-dir el_fairseq --task el_translation --arch bart_base --truncate-source
        --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512
        --encoder-attention-heads 4 --decoder-attention-heads 4 --dropout 0.1
        --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas '(0.9, 0.98)'
        --clip-norm 1.0 --lr 0.002 --lr-scheduler polynomial_decay --warmup-updates 100 --total-num-update "$UPDATES"
        --max-update "$UPDATES" --max-tokens 4096 --seed 1 --eval-rouge
        --eval-rouge-args '{"beam": 4, "min_len": 10, "max_len_b": 60}' --scoring rouge "${TEXT[@]}"
        --validate-interval 10 --no-epoch-checkpoints --save-dir "$OUT/checkpoints"
        --tensorboard-logdir "$OUT/tensorboard" --log-format simple --log-interval 50 "${MORE[@]}")
    echo "training (log: $OUT/train.log)"
    echo "command: $(printf '%q ' "${COMMAND[@]}")" >>"$OUT/train.log"
    python scripts/lib/measure.py "${COMMAND[@]}" 2>&1 | tee -a "$OUT/train.log" | sed -unE \
        -e "s/.* train_inner \|.* nll_loss=([0-9.]+),.* num_updates=([0-9]+),.*/update \2 of $UPDATES, nll_loss \1/p" \
        -e 's/.* valid on .* nll_loss ([0-9.]+) .*\| rougeL ([0-9.]+) .*/validation: nll_loss \1, ROUGE-L \2/p'
    cp "$OUT/checkpoints/checkpoint_last.pt" "$OUT/model.pt"
fi
echo "trained: $OUT/model.pt"
