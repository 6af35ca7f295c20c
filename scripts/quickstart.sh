#!/usr/bin/env bash
# Train a small stock model on a real task, generate as stock and with EL-attention, and compare.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/lib/options.sh"
usage() {
    cat <<'HELP'
usage: scripts/quickstart.sh [--out OUT]

English spelling to pronunciation: trains a stock transformer (about 5 minutes on 2 cores; the first words after one), generates
1,000 unseen words as stock and with EL-attention, and prints a table. Everything is written to OUT (default: quickstart).
A second run skips what is there already.
HELP
}
OUT=quickstart
read_options "out" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/environment.sh"
SECONDS=0 # from here on, without the install

mkdir -p "$OUT"
UPDATES=1000 FIRST=200 # of the first stage

# is_there FILE [BASE]: says that FILE, of an earlier run, is used; fails where there is none, or BASE was made after it.
is_there() {
    [[ -e $1 && ! $1 -ot ${2:-$1} ]] && echo "already there: $1"
}

train_until() { # UPDATES
    fairseq-train "$OUT/bin" --user-dir el_fairseq --task translation --arch transformer \
        --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 \
        --encoder-attention-heads 4 --decoder-attention-heads 4 --encoder-normalize-before --decoder-normalize-before \
        --share-decoder-input-output-embed --dropout 0.0 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
        --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.004 --lr-scheduler polynomial_decay \
        --warmup-updates 150 --total-num-update "$UPDATES" --max-update "$1" --max-tokens 4096 --seed 1 \
        --disable-validation --no-epoch-checkpoints --save-dir "$OUT/checkpoints" --tensorboard-logdir "$OUT/tensorboard" \
        --log-format simple --log-interval 50 2>&1 | tee -a "$OUT/train.log" |
        sed -unE "s/.* train_inner \|.* nll_loss=([0-9.]+),.* num_updates=([0-9]+),.*/update \2 of $UPDATES, nll_loss \1/p"
}

pronounce() { # MODEL: a few words that are in no dictionary
    printf '%s\n' brillig transformery xylosaur fairseqable | sed 's/./& /g' |
        fairseq-interactive "$OUT/bin" --user-dir el_fairseq --task el_translation --path "$1" --beam 5 \
            --buffer-size 4 --max-tokens 4096 2>"$OUT/interactive.log" | awk -F'\t' '
            /^S-/ { word = $2; gsub(" ", "", word) }
            /^D-/ { printf "%-14s %s\n", word, $3 }'
}

generate() { # NAME TASK-OPTIONS...
    echo "fairseq-generate --user-dir el_fairseq --task ${*:2}"
    is_there "$OUT/generate.$1" "$OUT/model.pt" && return
    fairseq-generate "$OUT/bin" --user-dir el_fairseq --task "${@:2}" --path "$OUT/model.pt" \
        --beam 5 --nbest 5 --batch-size 128 2>&1 | tee "$OUT/generate.part" |
        awk '/^T-/ && ++words % 500 == 0 { print "    " words " of 1000 words"; fflush() }'
    mv "$OUT/generate.part" "$OUT/generate.$1"
}

echo
echo "== 1/4 data: the CMU pronouncing dictionary"
if ! is_there "$OUT/bin"; then
    python -m examples.pronunciation.prepare "$OUT/text"
    rm -rf "$OUT/bin.part"
    fairseq-preprocess -s word -t phone --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi

echo
echo "== 2/4 training: a stock transformer, 2+2 layers of width 128 (about 5 minutes; log: $OUT/train.log)"
if ! is_there "$OUT/model.pt"; then
    if ! is_there "$OUT/first.pt"; then
        train_until "$FIRST"
        cp "$OUT/checkpoints/checkpoint_last.pt" "$OUT/first.pt"
    fi
    echo "after $FIRST updates, and $SECONDS seconds in all, four made-up words are (still with mistakes):"
    pronounce "$OUT/first.pt"
    train_until "$UPDATES"
    cp "$OUT/checkpoints/checkpoint_last.pt" "$OUT/model.pt"
fi
echo "after $UPDATES updates:"
pronounce "$OUT/model.pt"

echo
echo "== 3/4 generation: 1,000 words that the model has never seen"
generate stock translation
generate auto el_translation
generate on el_translation --el-attention on
echo
python -m examples.pronunciation.table --max-error-rate 0.15 "stock=$OUT/generate.stock" \
    "el_translation (auto)=$OUT/generate.auto" "el_translation --el-attention on=$OUT/generate.on"
echo "(Another kind of processor trains a slightly different model: with the same seed 10.6, 10.8 and 11.1 % were seen.)"

echo
echo "== 4/4 the same output? stock and --el-attention on, every hypothesis"
if ! is_there "$OUT/lossless.txt" "$OUT/model.pt"; then
    python scripts/check_lossless.py "$OUT/bin" --path "$OUT/model.pt" --beam 5 --batch-size 128 \
        2>&1 >"$OUT/lossless.part" | tee "$OUT/check_lossless.log" |
        sed -unE 's/.*comparing:.* sentences=([0-9]+),.*/    \1 of 1000 words/p' || {
        tail -3 "$OUT/check_lossless.log" && cat "$OUT/lossless.part" && exit 1
    }
    mv "$OUT/lossless.part" "$OUT/lossless.txt"
fi
cat "$OUT/lossless.txt"

cat <<END

Done in $((SECONDS / 60)) minutes and $((SECONDS % 60)) seconds. All outputs and logs are in $OUT; remove it to start again.
Next, your own checkpoint: add "--user-dir el_fairseq --task el_translation" to your fairseq-generate command, and ask whether
it is lossless there:
    cd $ROOT && source .venv/bin/activate
    fairseq-generate DATA-BIN --user-dir el_fairseq --task el_translation --path model.pt --beam 5
    python scripts/check_lossless.py DATA-BIN --path model.pt --beam 5 --limit 1000
END
