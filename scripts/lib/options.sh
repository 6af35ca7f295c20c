# shellcheck shell=bash
# Sourced by the examples and the quickstart, which take their options the same way: --name VALUE, and behind -- what goes
# to a command of fairseq.

PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"

fail() {
    echo "${0##*/}: $1" >&2
    exit 2
}

# read_options NAMES ARGUMENTS...: for each --some-name VALUE among ARGUMENTS, sets SOME_NAME. NAMES: those there are, separated
# by spaces; where -- is among them, what stands behind it comes into MORE. --help calls usage. A path that is given counts
# from where the user is; environment.sh, which follows, goes to the folder of the project.
read_options() {
    local names=" $1 " paths=" out data-dir text-dir model " name value
    shift
    MORE=()
    while (($#)); do
        if [[ $1 == --help || $1 == -h ]]; then
            usage
            exit 0
        elif [[ $1 == -- && $names == *" -- "* ]]; then
            # shellcheck disable=SC2034 # the scripts use it
            MORE=("${@:2}")
            return
        fi
        name="${1#--}"
        [[ $1 == --?* && $names == *" $name "* ]] || fail "there is no option $1 (--help lists them)"
        (($# > 1)) || fail "$1 needs a value"
        value="$2"
        [[ $paths != *" $name "* ]] || value="$(realpath -m --relative-base="$PROJECT" "$value")"
        name="${name//-/_}"
        printf -v "${name^^}" '%s' "$value"
        shift 2
    done
}
