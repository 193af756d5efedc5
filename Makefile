# Needs GNU make and any Python from 3.10 to 3.14; everything else goes into .venv, from requirements.lock, by uv where it is there.
#   make reproduce [PROFILE=pocket] [SET="sizes=small training.epochs=2"] [FEEDBACK=file]    tables, figures, report in results/
#   make test       the whole suite      make lab   JupyterLab on the notebooks      make clean   everything but results/
#   make site [RESULTS=results/pocket]   a finished run, the guide and the names as a static site in build/site/
#   make lint       ruff over package, tests, benchmarks and notebooks: rules and format
#   make chaos      what kills, a full disk and damaged files do to a reproduction
#   make bench-gpu  ten minutes on a GPU: tokens a second, share of its peak, memory, by model and method
#   make test-matrix   the suite on every Python here, and on the lowest versions allowed
#   make test-colab    every notebook on Colab's versions      make lock   requirements.lock again
.DEFAULT_GOAL := reproduce
.PHONY: reproduce test lint chaos bench-gpu test-matrix test-colab lab lock clean setup site

PROFILE ?= pocket
# As typed: make would expand a "$" in them, and run $(shell ...). Before the first shell of ours, which they are exported to.
override PROFILE := $(value PROFILE)
override SET := $(value SET)
override FEEDBACK := $(value FEEDBACK)
override RESULTS := $(value RESULTS)
export PROFILE SET FEEDBACK RESULTS
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Packages are compiled when first imported, not all at set-up; without the files every kernel would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
RUN := $(VENV)/bin/python
UV := $(shell command -v uv)
# The newest that works; a bare Debian has interpreters that cannot make environments, which uv does by itself.
FITS = -c 'import $(if $(UV),,ensurepip, venv,) sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
PYTHON = $(shell for p in python3.14 python3.13 python3.12 python3.11 python3.10 python3 python; do \
  if $$p $(FITS); then echo $$p; break; fi; done)
# The stamp of a finished installation: another lock, pyproject or place of the clone has another name.
READY := $(VENV)/.ready-$(shell (pwd; cat requirements.lock pyproject.toml) | cksum | cut -d' ' -f1)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

reproduce: $(READY)
	@$(RUN) -m rpo_nb reproduce --profile "$$PROFILE" --set "$$SET" --feedback "$$FEEDBACK"

# Tests never reach for a hub, and run on one thread a process: the same numbers on every machine of a kind.
# A process a core; tests/conftest.py says what stays together. ARGS=-n0 has one, as --pdb wants it.
test: export RPO_NB_PROFILE := smoke
test: export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1
test: export TOKENIZERS_PARALLELISM := false
test: $(READY) lint
	@$(RUN) -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder \
	  --nbmake --nbmake-timeout=900 tests notebooks $(ARGS) || { \
	  echo 'make test failed: see the first FAILED line above; run one test with  make test ARGS="-x -k NAME"'; exit 1; }

# 100 columns, imports in order, nothing unused; mend with  ruff check --fix . && ruff format .
lint: $(READY)
	@$(RUN) -m ruff check --quiet . && $(RUN) -m ruff format --quiet --check . || { \
	  echo 'make lint failed: see above, or mend it with  $(RUN) -m ruff check --fix . ; $(RUN) -m ruff format .'; exit 1; }

# From stored outputs alone: nothing is trained, no notebook is executed, nothing is fetched. A warning is an error.
site: export HF_HUB_OFFLINE := 1
site: $(READY)
	@$(RUN) -m docs.site "$$RESULTS"

# Ten minutes of kills, a full disk and damaged files; a short version is part of the suite. Writes benchmarks/reliability.csv.
chaos: export OMP_NUM_THREADS := 1
chaos: export HF_HUB_OFFLINE := 1
chaos: $(READY)
	@nice $(RUN) -m benchmarks.chaos

# Where there is a GPU: the rows of benchmarks/throughput.csv that ten minutes allow, each written as it ends; again goes on.
bench-gpu: export HF_HUB_OFFLINE := 1
bench-gpu: $(READY)
	@$(RUN) -m benchmarks.gpu $(ARGS)

lab: $(READY)
	@$(RUN) -c 'import jupyterlab' 2>/dev/null || $(RUN) -m pip install --quiet -c requirements.lock jupyterlab
	@cd notebooks && ../$(RUN) -m jupyter lab $(ARGS)

setup: $(READY)

# torch first and with what it asks for: a CUDA wheel brings libraries that the lock of a CPU machine cannot name.
$(READY):
	@rm -rf $(VENV); python="$(PYTHON)"; \
	  test -n "$$python" -o -n '$(UV)' || { echo 'A Python from 3.10 to 3.14 with venv is needed: install one' \
	    '(Debian: apt install python3 python3-venv), or uv, and run make again'; exit 1; }; \
	  echo "Setting up $(VENV) with $${python:-a Python that uv fetches} (once; a minute and 3 GB," \
	    'or 6 GB where the index has torch for CUDA only) ...'; \
	  $(if $(UV),uv venv --quiet --seed --python "$${python:-3.13}" $(VENV),"$$python" -m venv $(VENV)) \
	  && $(INSTALL) -c requirements.lock torch \
	  && $(INSTALL) --no-deps -r requirements.lock \
	  && $(INSTALL) --no-deps --no-build-isolation -e . \
	  || { rm -rf $(VENV); echo 'The packages could not be installed (the reason is above):' \
	    'check the network or pip.conf and run make again'; exit 1; }
	@touch '$@'

INSTALL = $(if $(UV),uv pip install --quiet --python $(RUN),$(RUN) -m pip install --quiet --no-compile)

# The suite on each Python found, each in an environment of its own, and on the lowest versions that pyproject.toml allows.
test-matrix:
	@sh tests/matrix.sh

# The wheel and every notebook on the versions that Colab has (tests/colab.txt), in an environment of its own; Python 3.13.
test-colab: $(READY)
	@RPO_NB_COLAB="$${RPO_NB_COLAB:-$$PWD/.venv-colab}" RPO_NB_PROFILE=smoke HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
	  TOKENIZERS_PARALLELISM=false $(RUN) -m pytest tests/test_colab.py $(ARGS)

# One lock for every Python, without what a CUDA wheel of torch brings; tests/test_setup.py tells when it has drifted.
lock:
	@test -n '$(UV)' || { echo 'make lock needs uv: pip install uv'; exit 1; }
	@uv pip compile --quiet --universal --python-version 3.10 --extra workflow --extra judges --extra test --extra site \
	  --no-annotate --no-header pyproject.toml -o requirements.lock $(ARGS)
	@sed -i -E '/^(nvidia-|cuda-|triton)/d' requirements.lock

clean:
	rm -rf .venv .venv-* .cache .pytest_cache build *.egg-info
