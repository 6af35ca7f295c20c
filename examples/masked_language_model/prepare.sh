#!/usr/bin/env bash
# Text for pretraining and the classification tasks: pieces and binarised data, once.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/masked_language_model/prepare.sh [--config small|full] [--out OUT] [--data-dir DIR]

Writes OUT/text and OUT/bin (default OUT: results/masked-lm-CONFIG); nothing is made again.

--config    small (film reviews; MR, SUBJ, SST-2, TREC) or full (WikiText-103; SST-2, RTE, QNLI, MNLI, QQP of GLUE)
--data-dir  where the files of the corpora lie; without it they are downloaded
HELP
}
CONFIG=small OUT='' DATA_DIR=''
read_options "config out data-dir" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/masked_language_model/options.sh
source "$HERE/options.sh"
set_options "$CONFIG"
OUT="${OUT:-results/masked-lm-$CONFIG}"
mkdir -p "$OUT/text"

binarise() { # DESTINATION PREFIX-OF-THE-PARTS SUFFIX PARTS OPTIONS...
    local prefixes=() part
    [[ ! -f $OUT/bin/$1/dict.txt ]] || return 0
    for part in $4; do
        prefixes+=("--${part}pref" "$2/$part$3")
    done
    rm -rf "$OUT/bin/$1.part"
    fairseq-preprocess --only-source "${prefixes[@]}" --destdir "$OUT/bin/$1.part" "${@:5}" >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin/$1.part" "$OUT/bin/$1"
    echo "binarised: $OUT/bin/$1"
}

if [[ ! -f $OUT/text/prepared ]]; then
    if [[ $CONFIG == full ]]; then
        python -m examples.language_modeling.prepare "$OUT/text/wikitext-103" --corpus wikitext-103 \
            ${DATA_DIR:+--data-dir "$DATA_DIR"}
    fi
    python -m examples.masked_language_model.prepare "$OUT/text" --config "$CONFIG" ${DATA_DIR:+--data-dir "$DATA_DIR"}
    touch "$OUT/text/prepared"
fi
binarise pretrain "$OUT/text/pretrain" '' "train valid" --workers 2
for task in $TASKS; do
    task="${task%:*}"
    mkdir -p "$OUT/bin/$task"
    for side in input0 input1; do
        [[ ! -f $OUT/text/$task/train.$side ]] ||
            binarise "$task/$side" "$OUT/text/$task" ".$side" "train valid test" --srcdict "$OUT/bin/pretrain/dict.txt"
    done
    binarise "$task/label" "$OUT/text/$task" .label "train valid test"
done
echo "prepared: $OUT/bin"
