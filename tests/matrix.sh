#!/bin/sh
# make test-matrix: the suite on every Python from 3.10 to 3.14 that is here (on the PATH, with pyenv, with uv), each in an
# environment of its own (.venv-3.12 ...), and on the lowest versions that pyproject.toml allows, which needs uv.
# Ends with one line a Python; exit status 1 when one failed. ONLY="3.12 lowest" limits it.
# Each has a cache of its own: what a newer transformers saved, an older one may not read.
mkdir -p .cache/matrix
failed=0

told() {  # told NAME STATUS LOG
    if [ "$2" -eq 0 ]; then word=passed; else word=FAILED; failed=1; fi
    echo "$1: $word: $(grep -E '[0-9]+ (passed|failed)' "$3" | tail -n 1) ($3)"
}

wanted() { case " ${ONLY:-$1} " in *" $1 "*) true;; *) false;; esac; }

found() {  # the interpreter of a version, or nothing
    for python in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
        if "$python" -c 'import sys' 2>/dev/null; then echo "$python"; return; fi
    done
    uv python find --no-python-downloads "$1" 2>/dev/null
}

for version in 3.10 3.11 3.12 3.13 3.14; do
    wanted "$version" || continue
    python=$(found "$version")
    if [ -z "$python" ]; then echo "$version: not here"; continue; fi
    log=.cache/matrix/$version.log
    RPO_NB_CACHE="$PWD/.cache/matrix/$version" ${MAKE:-make} test VENV=".venv-$version" PYTHON="$python" >"$log" 2>&1
    told "$version" $? "$log"
done

if wanted lowest; then
    if ! command -v uv >/dev/null; then echo 'lowest: needs uv (pip install uv)'; exit 1; fi
    log=.cache/matrix/lowest.log
    # The notebooks' workflow has no lower Python than 3.11 with Snakemake 9.
    { uv pip compile --quiet --resolution lowest-direct --python-version "${LOWEST_PYTHON:-3.11}" \
          --extra workflow --extra judges --extra test --extra site --no-annotate pyproject.toml -o .cache/matrix/lowest.txt \
      && rm -rf .venv-lowest && uv venv --quiet --seed --python "$(found "${LOWEST_PYTHON:-3.11}")" .venv-lowest \
      && uv pip install --quiet --python .venv-lowest/bin/python -r .cache/matrix/lowest.txt \
      && uv pip install --quiet --python .venv-lowest/bin/python --no-deps -e . \
      && RPO_NB_CACHE="$PWD/.cache/matrix/lowest" RPO_NB_PROFILE=smoke HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
         .venv-lowest/bin/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder \
         --nbmake --nbmake-timeout=900 tests notebooks --deselect tests/test_setup.py ${ARGS:-}; } >"$log" 2>&1
    told lowest $? "$log"
fi
exit $failed
