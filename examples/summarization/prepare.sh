#!/usr/bin/env bash
# Documents and summaries: text and binarised data, once.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/summarization/prepare.sh --config tiny|cnndm|xsum [--out OUT] [--data-dir DIR] [--parts PART,...]

Writes OUT/text and OUT/bin (default OUT: results/summarization-CONFIG); nothing is made again.

--config    cnndm and xsum (both with BART's GPT-2 BPE), or tiny (DialogSum)
--data-dir  where the files of the corpus lie; without it they are downloaded
--parts     train, valid, test, comma-separated (default: all three; test is enough to generate with a public checkpoint)
HELP
}
CONFIG='' OUT='' DATA_DIR='' PARTS=train,valid,test
read_options "config out data-dir parts" "$@"
[[ -n $CONFIG ]] || fail "--config is needed (--help lists them)"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/summarization/options.sh
source "$HERE/options.sh"

OUT="${OUT:-results/summarization-$CONFIG}" PARTS="${PARTS//,/ }"
set_options "$CONFIG" "$OUT"
if [[ ! -f $OUT/bin/dict.target.txt ]]; then
    # shellcheck disable=SC2086 # PARTS are several words
    python -m examples.summarization.prepare "$OUT/text" --corpus "$CORPUS" --parts $PARTS ${DATA_DIR:+--data-dir "$DATA_DIR"}
    PREFIXES=()
    for part in $PARTS; do
        PREFIXES+=("--${part}pref" "$OUT/text/$part.bpe")
    done
    fairseq-preprocess -s source -t target "${PREFIXES[@]}" --srcdict "$DICTIONARY" --tgtdict "$DICTIONARY" \
        --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi
echo "prepared: $OUT/bin"
