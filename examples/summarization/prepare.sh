#!/usr/bin/env bash
# Documents and summaries: text and binarised data, once.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help || $# -lt 2 ]]; then
    echo "usage: examples/summarization/prepare.sh CONFIG OUT [DATA-DIR [PART...]]"
    echo "Writes OUT/text and OUT/bin; nothing is made again. CONFIG: cnndm, xsum (both with BART's GPT-2 BPE) or tiny"
    echo "(DialogSum). The files are downloaded, or taken from DATA-DIR ('' to download). PART: train, valid, test (default:"
    echo "all three; test is enough to generate with a public checkpoint)."
    [[ ${1:-} == --help ]] && exit 0 || exit 2
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/summarization/options.sh
source "$HERE/options.sh"

CONFIG="$1" OUT="$2" DATA="${3:-}" PARTS=("${@:4}")
[[ $# -gt 3 ]] || PARTS=(train valid test)
set_options "$CONFIG" "$OUT"
if [[ ! -f $OUT/bin/dict.target.txt ]]; then
    python "$HERE/prepare.py" "$OUT/text" --corpus "$CORPUS" --parts "${PARTS[@]}" ${DATA:+--data-dir "$DATA"}
    PREFIXES=()
    for part in "${PARTS[@]}"; do
        PREFIXES+=("--${part}pref" "$OUT/text/$part.bpe")
    done
    fairseq-preprocess -s source -t target "${PREFIXES[@]}" --srcdict "$DICTIONARY" --tgtdict "$DICTIONARY" \
        --destdir "$OUT/bin.part" --workers 2 >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi
echo "prepared: $OUT/bin"
