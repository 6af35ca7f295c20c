#!/usr/bin/env bash
# Training speed and memory of the attention variants, in turn on one machine.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help || $# -lt 1 ]]; then
    echo "usage: examples/translation/speed.sh OUT [ROUNDS]"
    echo "Trains each variant for 30 updates on OUT/bin (from prepare.sh), all of them in turn, ROUNDS times (3 if not"
    echo "given; about 4 minutes a round on 2 cores). What was measured is in OUT/speed; table.py takes the medians."
    [[ ${1:-} == --help ]] && exit 0 || exit 2
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/translation/options.sh
source "$HERE/options.sh"

OUT="$1"
mkdir -p "$OUT/speed"
for round in $(seq "${2:-3}"); do
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
