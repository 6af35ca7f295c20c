# shellcheck shell=bash
# Sourced by the examples and by scripts, which take their options the same way: --name VALUE, and after -- what goes to a
# command of fairseq.

PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"

fail() {
    echo "${0##*/}: $1" >&2
    exit 2
}

# read_options NAMES ARGUMENTS...: for each --some-name VALUE among ARGUMENTS, sets SOME_NAME. NAMES: those there are, separated
# by spaces. name:0 is a switch, which sets its variable to yes; name:2 takes two paths, into an array. Where -- is among NAMES,
# what follows it comes into MORE. --help calls usage. A path that is given counts from where the user is;
# environment.sh, which follows, goes to the folder of the project.
read_options() {
    local names=" $1 " paths=" out data-dir text-dir model " name value variable
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
        name="${1#--}" variable="${1#--}"
        variable="${variable//-/_}"
        variable="${variable^^}"
        [[ $1 == --[a-z]* && $name != *:* ]] || fail "there is no option $1 (--help lists them)"
        case "$names" in
            *" $name "*)
                (($# > 1)) || fail "$1 needs a value"
                value="$2"
                [[ $paths != *" $name "* ]] || value="$(from_project "$2")"
                printf -v "$variable" '%s' "$value"
                shift 2
                ;;
            *" $name:0 "*)
                printf -v "$variable" yes
                shift
                ;;
            *" $name:2 "*)
                (($# > 2)) || fail "$1 needs two values"
                printf -v "${variable}[0]" '%s' "$(from_project "$2")"
                printf -v "${variable}[1]" '%s' "$(from_project "$3")"
                shift 3
                ;;
            *) fail "there is no option $1 (--help lists them)" ;;
        esac
    done
}

# check_names OPTION GIVEN NAMES: that each of GIVEN (separated by commas) is one of NAMES (by spaces).
check_names() {
    local name
    for name in ${2//,/ }; do
        [[ " $3 " == *" $name "* ]] || fail "$1 $name: there are ${3// /, }"
    done
}

# from_project PATH: as the project's folder sees it.
from_project() {
    realpath -m --relative-base="$PROJECT" "$1"
}
