#!/usr/bin/env bash
# Training speed and memory of the attention variants, in turn on one machine.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/speed.sh [--out OUT] [--rounds N]

Trains each variant for 30 updates on OUT/bin (from prepare.sh; default OUT: results/multi30k), all of them in turn, N
times (default: 3; about 4 minutes a round on 2 cores). What was measured is in OUT/speed; table.py takes the medians.
HELP
}
OUT=results/multi30k ROUNDS=3
read_options "out rounds" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/translation/options.sh
source "$HERE/options.sh"

mkdir -p "$OUT/speed"
for round in $(seq "$ROUNDS"); do
    for variant in mha mhe-mul mhe-add mqa sha; do
        log="$OUT/speed/$variant-$round.log"
        [[ -f $log ]] && continue
        set_options "$variant"
        python scripts/lib/measure.py fairseq-train "$OUT/bin" "${OPTIONS[@]}" --max-update 30 --seed 1 --no-save \
            --log-interval 5 2>&1 | grep -hE "train_inner|measured:" | sed 's/^[^|]*|[^|]*| //' >"$log.part"
        mv "$log.part" "$log"
        echo "$variant, round $round: $(grep measured: "$log")"
    done
done
