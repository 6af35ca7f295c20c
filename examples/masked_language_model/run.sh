#!/usr/bin/env bash
# Masked language models with the attention variants: pretrain, fine-tune on classification tasks, print the table.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/masked_language_model/run.sh [--config small|full] [--out OUT] [--data-dir DIR]
                                             [--variants VARIANT,...] [--seeds SEED,...] [--jobs N]

Prepares the data (downloaded, or from DIR), pretrains one model for each attention variant, fine-tunes it on each task
with each seed, and prints the table; mha is also fine-tuned without pretraining. Everything is written to OUT (default:
results/masked-lm-CONFIG). What is finished is not made again; a training that was interrupted goes on.

--config small  4 layers of width 128 on 2,000 film reviews; MR, SUBJ, SST-2, TREC (default)
--config full   the shape of RoBERTa base on WikiText-103; SST-2, RTE, QNLI, MNLI, QQP of GLUE; needs GPUs, and was not run yet
--variants      default: mha,mhe-mul,mhe-add,mqa,sha
--seeds         of fine-tuning (default: 1,2)
--jobs          trainings at once (default: 2, with full 1), each with its share of the cores
HELP
}
CONFIG=small OUT='' DATA_DIR='' VARIANTS=mha,mhe-mul,mhe-add,mqa,sha SEEDS=1,2 JOBS=''
read_options "config out data-dir variants seeds jobs" "$@"
JOBS="${JOBS:-$([[ $CONFIG == full ]] && echo 1 || echo 2)}"
check_names --variants "$VARIANTS" "mha mhe-mul mhe-add mqa sha"
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || fail "--jobs $JOBS: it is a number of trainings, at least 1"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/masked_language_model/options.sh
source "$HERE/options.sh"
set_options "$CONFIG"
OUT="${OUT:-results/masked-lm-$CONFIG}"
[[ ,$VARIANTS, == *,mha,* || -f $OUT/mha-1/summary.log ]] || fail "--variants $VARIANTS: the table compares with mha"
COMMON=(--config "$CONFIG" --out "$OUT")
STOPPED="a model was not finished (see above). What is finished is kept: the same command goes on"

"$HERE/prepare.sh" "${COMMON[@]}" ${DATA_DIR:+--data-dir "$DATA_DIR"}
SHARE=$(($(nproc) / JOBS))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((SHARE > 1 ? SHARE : 1))}"
printf -- '--variant %s\n' ${VARIANTS//,/ } | xargs -L 1 -P "$JOBS" "$HERE/pretrain.sh" "${COMMON[@]}" || fail "$STOPPED"
for seed in ${SEEDS//,/ }; do
    for task in $TASKS; do
        printf -- "--task ${task%:*} --seed $seed --variant %s\n" ${VARIANTS//,/ }
        [[ ,$VARIANTS, != *,mha,* ]] || echo "--task ${task%:*} --seed $seed --variant mha --from-scratch"
    done
done | xargs -L 1 -P "$JOBS" "$HERE/finetune.sh" "${COMMON[@]}" || fail "$STOPPED"
echo
python -m examples.masked_language_model.table "$OUT"
echo
echo "Done. Logs, checkpoints and what TensorBoard shows (tensorboard --logdir $OUT) are in $OUT."
