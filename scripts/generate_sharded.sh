#!/usr/bin/env bash
# fairseq-generate by many workers, on this machine or on SLURM, and what they print merged in source order.

set -euo pipefail
usage() {
    cat <<'HELP'
usage: scripts/generate_sharded.sh [--num-shards N] DATA --path MODEL.pt --results-path DIR [fairseq-generate options]

Cuts the work into units of whole batches, has N workers generate them with one loaded model each, and merges the results
in source order into DIR/generate-SUBSET.txt: the lines that one fairseq-generate prints. N: the number of GPUs
(nvidia-smi, or CUDA_VISIBLE_DEVICES), one process each; without a GPU, or with --cpu, give N: they divide the cores.

  --num-shards N         workers
  --units N              the work is cut into at most N units, of as many batches each (default 256, at most 500)
  --max-requeues N       how often a unit is tried again after its worker ended too early (default 3)
  --executor local       processes of this machine (default)
  --executor slurm       a job array of N workers on SLURM (needs submitit: pip install submitit), with
      --partition P --account A --qos Q --time MINUTES --gpus-per-task N --cpus-per-task N --mem-gb N
  --executor submitit    the same on this machine without SLURM, to try it

* All or nothing: the merged file has every sentence exactly once, or there is none and the exit status is not 0.
* Run again with the same arguments, only missing units are generated; N may be another. With another checkpoint, data or
  options it refuses and says which differ. Units, manifest and logs are in DIR/generate-SUBSET.units.
* Ctrl-C and SIGTERM stop all workers; run again to go on.
* --required-batch-size-multiple is 1 unless given: fairseq's 8 drops sentences of an incomplete last batch.
* Batches are those of a single process, so hypotheses and scores are, too. Random searches (--sampling) are seeded for each
  batch: the same whatever N, but not what fairseq-generate draws.

More: docs/generation-sharding.md. For the score of the best hypotheses of all sentences:

    awk -F'\t' '/^T-/ { print $2 }' DIR/generate-test.txt >ref
    awk -F'\t' '/^D-/ && !seen[$1]++ { print $3 }' DIR/generate-test.txt >sys
    fairseq-score --sys sys --ref ref    # what fairseq-generate prints by default
    sacrebleu ref -i sys                 # of words, with --remove-bpe
HELP
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit; }
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for python in "$(dirname "$(command -v fairseq-generate || echo /none/)")/python" "$SCRIPTS/../.venv/bin/python"; do
    [[ ! -x $python ]] || exec "$python" "$SCRIPTS/generate_sharded.py" "$@"
done
echo "generate_sharded.sh: no fairseq-generate on PATH, with its python beside it (scripts/test.sh makes .venv with it)" >&2
exit 1
