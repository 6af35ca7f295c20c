#!/usr/bin/env bash
# Multi30k English-German: prepare, train a small stock transformer, check that EL-attention loses nothing.

HERE="$(dirname "${BASH_SOURCE[0]}")"
if [[ ${1:-} == --help ]]; then
    echo "usage: examples/translation/run.sh [OUT [DATA-DIR]]"
    echo "Prepares Multi30k (downloaded, or from DATA-DIR), trains a stock transformer of 3+3 layers for 4 epochs (about"
    echo "9 minutes on 2 cores), generates test_2016_flickr, and compares stock with EL-attention on its 1,000 sentences."
    echo "Everything is written to OUT (default: results/multi30k); training resumes where it stopped."
    exit 0
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

OUT="${1:-results/multi30k}"
examples/translation/prepare.sh "$OUT" "${2:-}"
NAME=stock-4-epochs examples/translation/train.sh "$OUT" stock 1 4
grep -h "decoder state" "$OUT/stock-4-epochs-1/summary.log"
python scripts/check_lossless.py "$OUT/bin" --path "$OUT/stock-4-epochs-1/checkpoints/checkpoint_last.pt" \
    --beam 5 --batch-size 64 2>"$OUT/check_lossless.log"
