#!/usr/bin/env bash
# The table of attention variants on Multi30k: all five with one seed, multi-head attention and MHE with a second.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/compare.sh [--out OUT] [--data-dir DIR]

Prepares Multi30k (downloaded, or from DIR), trains, translates and scores eight models (about 12 minutes each on 2
cores), measures training speed (12 minutes), and prints the table. Everything is written to OUT (default:
results/multi30k); a model that is finished is not trained again.
HELP
}
OUT=results/multi30k DATA_DIR=''
read_options "out data-dir" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

"$HERE/prepare.sh" --out "$OUT" ${DATA_DIR:+--data-dir "$DATA_DIR"}
for variant in mha mhe-mul mhe-add mqa sha; do
    "$HERE/train.sh" --variant "$variant" --seed 1 --out "$OUT"
done
for variant in mha mhe-mul mhe-add; do
    "$HERE/train.sh" --variant "$variant" --seed 2 --out "$OUT"
done
"$HERE/speed.sh" --out "$OUT"
python -m examples.translation.table "$OUT"
