#!/usr/bin/env bash
# Every check, in an environment with `pip install -e '.[dev]'`: library and notebooks agree, each notebook runs, tests pass.
#   bash tests/run.sh            needs no network and no GPU
#   bash tests/run.sh --slow     whatever follows goes to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BILINGUAL_EMBED_FIGURES=$(mktemp -d); export BILINGUAL_EMBED_FIGURES; trap 'rm -rf "$BILINGUAL_EMBED_FIGURES"' EXIT      # pictures that tests draw
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=agg PYTHONUNBUFFERED=1
exec </dev/null
python() { command "${PYTHON:-python}" "$@"; }
step() { # step NAME COMMAND...: run it and say how long it took
    local name=$1 start=$SECONDS; shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS-start)) s" >&2; exit 1; }
    echo "== $name: $((SECONDS-start)) s"
}
nb() { python -c "import sys; sys.argv[0] = 'nbdev'; from nbdev.$1 import $2 as f; f()" "${@:3}"; }

state() { git diff -- nbs bilingual_embed | git hash-object --stdin; }
agree() { # nbdev_export and nbdev_clean change nothing that is under version control
    local before after
    git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { echo "not a git checkout: cannot compare library and notebooks"; return 0; }
    before=$(state) && nb doclinks nbdev_export && nb clean nbdev_clean && after=$(state) || return 1
    [ "$before" = "$after" ] || { git --no-pager diff --stat -- nbs bilingual_embed
        echo "nbdev_export or nbdev_clean changed the files above: the library and its notebooks do not agree, or a notebook was not cleaned. Look at the difference and commit it"; return 1; }
}
step "library and notebooks agree" agree
step "notebooks" nb test nbdev_test --n_workers 2
python -m pytest tests --durations 5 "$@"
