#!/usr/bin/env bash
# Multi30k English-German: text and binarised data, once.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/prepare.sh [--out OUT] [--data-dir DIR] [--corpus multi30k|iwslt14|wmt14]

Writes OUT/text and OUT/bin (default OUT: results/CORPUS); nothing is made again. The corpus (default: multi30k) is
downloaded, or taken from DIR.
HELP
}
CORPUS=multi30k OUT='' DATA_DIR=''
read_options "out data-dir corpus" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

OUT="${OUT:-results/$CORPUS}"
mkdir -p "$OUT"
if [[ ! -f $OUT/bin/dict.de.txt ]]; then
    python -m examples.translation.prepare "$OUT/text" --corpus "$CORPUS" ${DATA_DIR:+--data-dir "$DATA_DIR"}
    rm -rf "$OUT/bin.part"
    fairseq-preprocess -s en -t de --trainpref "$OUT/text/train" --validpref "$OUT/text/valid" \
        --testpref "$OUT/text/test" --destdir "$OUT/bin.part" --joined-dictionary --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi
