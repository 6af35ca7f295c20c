#!/usr/bin/env bash
# The table of attention variants on Multi30k: all five with one seed, multi-head attention and MHE with a second.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
    echo "usage: examples/translation/compare.sh [OUT [DATA-DIR]]"
    echo "Prepares Multi30k (downloaded, or from DATA-DIR), trains, translates and scores eight models (about 12 minutes"
    echo "each on 2 cores), measures training speed (12 minutes), and prints the table. Everything is written to OUT"
    echo "(default: results/multi30k); a model that is finished is not trained again."
    exit 0
fi
OUT="${1:-results/multi30k}"
set -euo pipefail
"$HERE/prepare.sh" "$OUT" "${2:-}"
for variant in mha mhe-mul mhe-add mqa sha; do
    "$HERE/train.sh" "$OUT" "$variant" 1
done
for variant in mha mhe-mul mhe-add; do
    "$HERE/train.sh" "$OUT" "$variant" 2
done
"$HERE/speed.sh" "$OUT"
python3 "$HERE/table.py" "$OUT"
