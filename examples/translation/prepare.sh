#!/usr/bin/env bash
# Multi30k English-German: text and binarised data, once.

HERE="$(dirname "${BASH_SOURCE[0]}")"
if [[ ${1:-} == --help ]]; then
    echo "usage: examples/translation/prepare.sh [OUT [DATA-DIR [CORPUS]]]"
    echo "Writes OUT/text and OUT/bin (default OUT: results/multi30k); nothing is made again. CORPUS: multi30k (default),"
    echo "iwslt14 or wmt14. It is downloaded, or taken from DATA-DIR ('' to download)."
    exit 0
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

OUT="${1:-results/multi30k}"
mkdir -p "$OUT"
if [[ ! -f $OUT/bin/dict.de.txt ]]; then
    python examples/translation/prepare.py "$OUT/text" ${2:+--data-dir "$2"} ${3:+--corpus "$3"}
    rm -rf "$OUT/bin.part"
    fairseq-preprocess -s en -t de --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --joined-dictionary --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi
