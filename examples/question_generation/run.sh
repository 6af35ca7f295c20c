#!/usr/bin/env bash
# SQuAD question generation: prepare, train a stock transformer, generate as stock and with EL-attention, compare.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/question_generation/run.sh [--config small|full] [--data-dir DIR] [--out OUT]

Sentences of SQuAD 1.1 to questions: trains a stock transformer, generates questions for the 11,877 test sentences as
stock and with EL-attention (auto, on), and prints BLEU-4, ROUGE-L, identical hypotheses, seconds and decoder state.
small (default) trains 2+2 layers of width 128 on the published dev part, in at most 15 minutes on 2 cores; full trains
270M parameters on the published training part and needs a GPU. The text is downloaded, or taken from DIR. Everything is
written to OUT (default: results/squad-qg-CONFIG); training resumes at the end of the last epoch, and what is finished
is not made again.
HELP
}
CONFIG=small DATA_DIR='' OUT=''
read_options "config data-dir out" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"
# shellcheck source=examples/question_generation/options.sh
source "$HERE/options.sh"

OUT="${OUT:-results/squad-qg-$CONFIG}"
set_options "$CONFIG"
mkdir -p "$OUT"

if [[ ! -f $OUT/bin/dict.question.txt ]]; then
    python -m examples.question_generation.prepare "$OUT/text" ${DATA_DIR:+--data-dir "$DATA_DIR"} "${PREPARE[@]}"
    fairseq-preprocess -s sentence -t question --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --srcdict "$OUT/text/dict.txt" --joined-dictionary --destdir "$OUT/bin.part" \
        --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

TRAIN=(fairseq-train "$OUT/bin" --user-dir el_fairseq --task translation "${MODEL[@]}" --save-dir "$OUT/checkpoints"
    --tensorboard-logdir "$OUT/tensorboard")
if [[ ! -e $OUT/model.pt ]]; then
    echo "training (log: $OUT/train.log)"
    python scripts/lib/measure.py "${TRAIN[@]}" 2>&1 | tee -a "$OUT/train.log" |
        sed -unE 's/.* valid \| epoch ([0-9]+) .* nll_loss ([0-9.]+) .* num_updates ([0-9]+).*/epoch \1, update \3, validation nll_loss \2/p'
    ln -s checkpoints/checkpoint_best.pt "$OUT/model.pt"
fi

generate() { # NAME TASK-OPTIONS...
    [[ -f $OUT/generate.$1 ]] && return
    echo "fairseq-generate --user-dir el_fairseq --task ${*:2}"
    fairseq-generate "$OUT/bin" --user-dir el_fairseq --task "${@:2}" --path "$OUT/model.pt" --beam 4 --nbest 4 \
        --lenpen 1.0 --max-len-b 64 --batch-size 128 --required-batch-size-multiple 1 --remove-bpe sentencepiece \
        >"$OUT/generate.$1.part" 2>&1
    mv "$OUT/generate.$1.part" "$OUT/generate.$1"
}
generate stock translation
generate auto el_translation
generate on el_translation --el-attention on

if [[ ! -f $OUT/table.md ]]; then
    python -m examples.question_generation.table --references "$OUT/text/raw.test.question" "stock=$OUT/generate.stock" \
        "el_translation (auto)=$OUT/generate.auto" "el_translation --el-attention on=$OUT/generate.on" >"$OUT/table.part"
    mv "$OUT/table.part" "$OUT/table.md"
fi
{
    say_how "${TRAIN[@]}"
    grep -hE "num\. shared model params|train \| epoch|valid \| epoch|measured:" "$OUT/train.log" | sed 's/^[^|]*|[^|]*| //'
    grep -HoE "Translated .*|decoder state: .*" "$OUT"/generate.{stock,auto,on} | sed 's/^.*generate\.//'
} >"$OUT/summary.log"
cat "$OUT/table.md"
echo
if [[ ! -f $OUT/lossless.txt ]]; then
    python scripts/check_lossless.py "$OUT/bin" --path "$OUT/model.pt" --beam 4 --lenpen 1.0 --max-len-b 64 \
        --batch-size 128 --required-batch-size-multiple 1 --limit 1000 2>"$OUT/check_lossless.log" >"$OUT/lossless.part" ||
        { cat "$OUT/lossless.part" && exit 1; }
    mv "$OUT/lossless.part" "$OUT/lossless.txt"
fi
cat "$OUT/lossless.txt"
echo "Done. All outputs and logs are in $OUT."
