# shellcheck shell=bash
# Sourced by the examples, after options.sh: what their logs begin with, and whether a run is finished.

# say_how COMMAND...: the command, the commit and the versions of a result.
say_how() {
    echo "command: $(printf '%q ' "$@")"
    echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)"
    python -c 'import torch, os; print("torch:", torch.__version__, "cuda:", torch.cuda.is_available(), "cores:", os.cpu_count())'
}

# is_finished RUN COMMAND...: whether RUN has its summary. One that another command made is an error, not a result.
is_finished() {
    [[ -f $1/summary.log ]] || return 1
    [[ "$(head -n 1 "$1/summary.log")" == "command: $(printf '%q ' "${@:2}")" ]] ||
        fail "$1 is there, and was made with other options: see the first line of its summary.log. Remove $1, or write elsewhere (--help)"
}
