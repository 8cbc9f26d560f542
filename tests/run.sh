#!/usr/bin/env bash
# All checks, in an environment made by `pip install -e '.[dev]'`: the library agrees with its notebooks, every notebook runs,
# the tests pass.
#   bash tests/run.sh            needs neither network nor GPU
#   bash tests/run.sh --slow     arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=agg PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
BILINGUAL_EMBED_FIGURES=$(mktemp -d)              # figures drawn here do not replace those of the checkout
export BILINGUAL_EMBED_FIGURES
trap 'rm -rf "$BILINGUAL_EMBED_FIGURES"' EXIT
exec </dev/null
python() { command "${PYTHON:-python}" "$@"; }
step() { # step NAME COMMAND...: runs it and prints how long it took
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS-start)) s" >&2; exit 1; }
    echo "== $name: $((SECONDS-start)) s"
}
nb() { # nb MODULE COMMAND...: a command of nbdev, by the same Python
    python -c "import sys; sys.argv[0] = 'nbdev'; from nbdev.$1 import $2 as f; f()" "${@:3}"
}

state() { git diff -- nbs bilingual_embed | git hash-object --stdin; }
agree() { # nbdev_export and nbdev_clean change nothing that is under version control
    local before after
    if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        echo "not a git checkout: library and notebooks are not compared"
        return 0
    fi
    before=$(state) && nb doclinks nbdev_export && nb clean nbdev_clean && after=$(state) || return 1
    if [ "$before" != "$after" ]; then
        git --no-pager diff --stat -- nbs bilingual_embed
        echo "nbdev_export or nbdev_clean changed the files above: the library and its notebooks do not agree,"
        echo "or a notebook was not cleaned. Look at the difference and commit it."
        return 1
    fi
}
step "library and notebooks agree" agree
step "notebooks" nb test nbdev_test --n_workers 2 --timing
# a file stays in one process, since its tests share models; conftest.py has them in order
python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder --durations 5 "$@"
