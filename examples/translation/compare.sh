#!/usr/bin/env bash
# The tables of attention variants on Multi30k: each with three seeds.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/compare.sh [--out OUT] [--data-dir DIR] [--variants VARIANT,...] [--seeds SEED,...] [--jobs N]

Prepares Multi30k (downloaded, or from DIR), trains, translates and scores a model for each variant and seed (about 35
minutes each, two at once on 2 cores), compares each with mha by paired bootstrap, and prints the tables. Everything is
written to OUT (default: results/multi30k); a model that is finished is not trained again.

--variants  default: mha,mhe-mul,mhe-add,mqa,sha
--seeds     default: 1,2,3
--jobs      trainings at once (default: 2), each with its share of the cores
HELP
}
OUT=results/multi30k DATA_DIR='' VARIANTS=mha,mhe-mul,mhe-add,mqa,sha SEEDS=1,2,3 JOBS=2
read_options "out data-dir variants seeds jobs" "$@"
check_names --variants "$VARIANTS" "mha mhe-mul mhe-add mqa sha stock"
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || fail "--jobs $JOBS: it is a number of trainings, at least 1"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

compared=("$OUT"/mha-*/summary.log)
[[ ,$VARIANTS, == *,mha,* || -f ${compared[0]} ]] || fail "--variants $VARIANTS: the tables compare with mha"
"$HERE/prepare.sh" --out "$OUT" ${DATA_DIR:+--data-dir "$DATA_DIR"}
SHARE=$(($(nproc) / JOBS))
for seed in ${SEEDS//,/ }; do
    # shellcheck disable=SC2086 # VARIANTS are several words
    printf -- "--seed $seed --variant %s\n" ${VARIANTS//,/ }
done | OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((SHARE > 1 ? SHARE : 1))}" xargs -L 1 -P "$JOBS" "$HERE/train.sh" --out "$OUT" ||
    fail "a model was not finished (see above). What is finished is kept: the same command goes on"
python -m examples.translation.significance "$OUT"
python -m examples.translation.table "$OUT"
