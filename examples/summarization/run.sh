#!/usr/bin/env bash
# Summarise a test set as stock and with EL-attention, compare the summaries, and score them with ROUGE.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/summarization/run.sh [--config tiny|cnndm|xsum] [--out OUT] [--data-dir DIR] [--model MODEL.pt]
                                     [--updates N] [-- FAIRSEQ-GENERATE OPTIONS...]

Prepares the test set (downloaded, or from DIR), generates it as stock and by el_translation with the options of the
papers, checks with check_lossless.py that nothing differs, and prints a table with ROUGE. cnndm and xsum need --model
(bart.large.cnn, bart.large.xsum) and a GPU; tiny (default) trains a small BART on DialogSum's development part first (N
updates, see train.sh; about 10 minutes on 2 CPU cores in all). What follows -- is added to the options of generation,
and wins. Everything is written to OUT (default: results/summarization-CONFIG); what is there already is not made again.
HELP
}
CONFIG=tiny OUT='' DATA_DIR='' MODEL='' UPDATES=''
read_options "config out data-dir model updates --" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/summarization/options.sh
source "$HERE/options.sh"

OUT="${OUT:-results/summarization-$CONFIG}"
set_options "$CONFIG" "$OUT"
mkdir -p "$OUT"
PREPARE=(--out "$OUT")
[[ -z $DATA_DIR ]] || PREPARE+=(--data-dir "$DATA_DIR")
if [[ $CONFIG == tiny ]]; then
    "$HERE/prepare.sh" --config tiny "${PREPARE[@]}"
    [[ -n $MODEL ]] || "$HERE/train.sh" --out "$OUT" ${UPDATES:+--updates "$UPDATES"}
    MODEL="${MODEL:-$OUT/model.pt}"
else
    [[ -f $MODEL ]] || fail "--config $CONFIG needs --model: model.pt of bart.large.${CONFIG%dm} (README.md)"
    "$HERE/prepare.sh" --config "$CONFIG" --parts test "${PREPARE[@]}"
fi

GENERATION=(--path "$MODEL" --source-lang source --target-lang target --truncate-source --batch-size 32
    --required-batch-size-multiple 1 "${DECODING[@]}" "${MORE[@]}")
generate() { # NAME TASK-OPTIONS...
    if [[ ! -f $OUT/generate.$1 ]]; then
        echo "fairseq-generate --user-dir el_fairseq --task ${*:2} ${DECODING[*]} ${MORE[*]}"
        fairseq-generate "$OUT/bin" --user-dir el_fairseq --task "${@:2}" "${GENERATION[@]}" "${TEXT[@]}" --scoring rouge \
            >"$OUT/generate.part" 2>&1
        mv "$OUT/generate.part" "$OUT/generate.$1"
    fi
}
generate stock translation
generate auto el_translation
generate on el_translation --el-attention on
if [[ ! -f $OUT/check_lossless.txt ]]; then
    python scripts/check_lossless.py "$OUT/bin" "${GENERATION[@]}" >"$OUT/check_lossless.part" 2>"$OUT/check_lossless.log" ||
        { cat "$OUT/check_lossless.part" && exit 1; }
    mv "$OUT/check_lossless.part" "$OUT/check_lossless.txt"
fi
cat "$OUT/check_lossless.txt"
REFERENCES=()
for reference in "$OUT/text/test.target"*; do
    REFERENCES+=(--ref "$reference")
done
echo
python -m examples.summarization.table "${REFERENCES[@]}" "stock=$OUT/generate.stock" \
    "el_translation (auto)=$OUT/generate.auto" "el_translation --el-attention on=$OUT/generate.on" | tee "$OUT/table.md"
echo
echo "Done. All outputs and logs are in $OUT."
