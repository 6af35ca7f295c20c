#!/usr/bin/env bash
# Train a small stock model on a real task, generate as stock and with EL-attention, and compare.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/lib/options.sh"
usage() {
    cat <<'HELP'
usage: scripts/quickstart.sh [--out OUT]

English spelling to pronunciation: trains a stock transformer (about 5 minutes on 2 cores), generates 1,000 unseen words
as stock and with EL-attention, prints a table, and pronounces a few made-up words. Everything is written to OUT
(default: quickstart). A second run neither prepares nor trains again.
HELP
}
OUT=quickstart
read_options "out" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/environment.sh"

mkdir -p "$OUT"

echo
echo "== 1/4 data: the CMU pronouncing dictionary"
if [[ ! -f $OUT/bin/dict.phone.txt ]]; then
    python -m examples.pronunciation.prepare "$OUT/text"
    rm -rf "$OUT/bin.part"
    fairseq-preprocess -s word -t phone --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

echo
echo "== 2/4 training: a stock transformer, 2+2 layers of width 128 (about 5 minutes; log: $OUT/train.log)"
if [[ ! -f $OUT/model.pt ]]; then
    fairseq-train "$OUT/bin" --user-dir el_fairseq --task translation --arch transformer \
        --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 \
        --encoder-attention-heads 4 --decoder-attention-heads 4 --encoder-normalize-before --decoder-normalize-before \
        --share-decoder-input-output-embed --dropout 0.0 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
        --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.004 --lr-scheduler polynomial_decay \
        --warmup-updates 150 --total-num-update 1000 --max-update 1000 --max-tokens 4096 --seed 1 \
        --disable-validation --no-epoch-checkpoints --save-dir "$OUT/checkpoints" --tensorboard-logdir "$OUT/tensorboard" \
        --log-format simple --log-interval 100 2>&1 | tee "$OUT/train.log" |
        sed -unE 's/.* train_inner \|.* nll_loss=([0-9.]+),.* num_updates=([0-9]+),.*/update \2 of 1000, nll_loss \1/p'
    cp "$OUT/checkpoints/checkpoint_last.pt" "$OUT/model.pt"
fi

echo
echo "== 3/4 generation: 1,000 words that the model has never seen"
generate() { # NAME TASK-OPTIONS...
    echo "fairseq-generate --user-dir el_fairseq --task ${*:2}"
    fairseq-generate "$OUT/bin" --user-dir el_fairseq --task "${@:2}" --path "$OUT/model.pt" \
        --beam 5 --nbest 5 --batch-size 128 >"$OUT/generate.$1" 2>&1
}
generate stock translation
generate auto el_translation
generate on el_translation --el-attention on
echo
python -m examples.pronunciation.table --max-error-rate 0.15 "stock=$OUT/generate.stock" \
    "el_translation (auto)=$OUT/generate.auto" "el_translation --el-attention on=$OUT/generate.on"
echo
python scripts/check_lossless.py "$OUT/bin" --path "$OUT/model.pt" --beam 5 --batch-size 128 2>"$OUT/check_lossless.log"

echo
echo "== 4/4 made-up words, by fairseq-interactive"
printf '%s\n' brillig transformery xylosaur fairseqable | sed 's/./& /g' |
    fairseq-interactive "$OUT/bin" --user-dir el_fairseq --task el_translation --path "$OUT/model.pt" --beam 5 \
    --buffer-size 4 --max-tokens 4096 2>"$OUT/interactive.log" | awk -F'\t' '
        /^S-/ { word = $2; gsub(" ", "", word) }
        /^D-/ { printf "%-14s %s\n", word, $3 }'
echo
echo "Done. All outputs and logs are in $OUT."
