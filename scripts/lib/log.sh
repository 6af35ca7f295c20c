# shellcheck shell=bash
# Sourced by the examples: what their logs begin with.

# say_how COMMAND...: the command, the commit and the versions of a result.
say_how() {
    echo "command: $(printf '%q ' "$@")"
    echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)"
    python -c 'import torch, os; print("torch:", torch.__version__, "cuda:", torch.cuda.is_available(), "cores:", os.cpu_count())'
}
