# Needs GNU make and Python 3.11; everything else goes into .venv, from requirements.lock.
#   make reproduce [PROFILE=pocket] [SET="sizes=small training.epochs=2"] [FEEDBACK=file]    tables, figures, report in results/
#   make test       the whole suite      make lab   JupyterLab on the notebooks      make clean   everything but results/
.DEFAULT_GOAL := reproduce
.PHONY: reproduce test lab clean setup

PROFILE ?= pocket
export PROFILE SET FEEDBACK
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Packages are compiled when first imported, not all at set-up; without the files every kernel would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

IS_311 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
PYTHON := $(shell for p in python3.11 python3 python; do if $$p $(IS_311); then echo $$p; break; fi; done)
# The stamp of a finished installation: another lock, pyproject or place of the clone has another name.
READY := .venv/.ready-$(shell (pwd; cat requirements.lock pyproject.toml) | cksum | cut -d' ' -f1)
RUN := .venv/bin/python

reproduce: $(READY)
	@$(RUN) -m rpo_nb reproduce --profile "$$PROFILE" --set "$$SET" --feedback "$$FEEDBACK"

# Tests never reach for a hub, and run on one thread a process: the same numbers on every machine of a kind.
test: export RPO_NB_PROFILE := smoke
test: export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1
test: export TOKENIZERS_PARALLELISM := false
test: $(READY)
	@$(RUN) -m pytest --nbmake --nbmake-timeout=900 tests notebooks $(ARGS) || { \
	  echo 'make test failed: see the first FAILED line above; run one test with  make test ARGS="-x -k NAME"'; exit 1; }

lab: $(READY)
	@$(RUN) -c 'import jupyterlab' 2>/dev/null || $(RUN) -m pip install --quiet -c requirements.lock jupyterlab
	@cd notebooks && ../$(RUN) -m jupyter lab

setup: $(READY)

# torch first and with what it asks for: a CUDA wheel brings libraries that the lock of a CPU machine cannot name.
$(READY):
	@test -n '$(PYTHON)' || { echo 'Python 3.11 is needed: install it (Debian: apt install python3.11 python3.11-venv) and run make again'; exit 1; }
	@rm -rf .venv
	@echo 'Setting up .venv (once, about a minute and 3 GB) ...'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'python3.11 cannot make environments: install python3.11-venv'; exit 1; }
	@$(RUN) -m pip install --quiet --no-compile -c requirements.lock torch \
	  && $(RUN) -m pip install --quiet --no-compile --no-deps -r requirements.lock \
	  && $(RUN) -m pip install --quiet --no-compile --no-deps --no-build-isolation -e . \
	  || { echo 'The packages could not be installed (the reason is above): check the network or pip.conf and run make again'; exit 1; }
	@touch '$@'

clean:
	rm -rf .venv .cache .pytest_cache build *.egg-info
