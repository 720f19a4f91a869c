# make train: everything set up, then the quickstart. make test, make board: see below.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
COMPARED := .venv/transformers/.ready
DOCS := .venv/docs/.ready
NEXT := .venv/next

.PHONY: setup train sweep test test-next test-slow test-gpu lint docs bench bench-docs board lock clean
.DELETE_ON_ERROR:

setup: $(READY)

# Only when the lock or the project's own metadata changed.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# What only the tests need.
$(COMPARED): $(READY) requirements-transformers.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(@D) -r requirements-transformers.lock
	@touch $@

# What only the site is made with.
$(DOCS): $(READY) requirements-docs.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(@D) -r requirements-docs.lock
	@touch $@

# Tomorrow's versions: an environment that has those of its own, and all else from .venv.
$(NEXT)/.ready: $(COMPARED) $(DOCS) requirements-next.lock
	@rm -rf $(NEXT)
	@$(BIN)/python -m venv --without-pip $(NEXT)
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	own=$$($(NEXT)/bin/python -c "$$packages") shared=$$($(BIN)/python -c "$$packages"); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target "$$own" -r requirements-next.lock && \
	echo "import site; site.addsitedir('$$shared')" > "$$own/all-else.pth"
	@ln -s ../transformers $(NEXT)/transformers
	@ln -s ../docs $(NEXT)/docs
	@touch $@

train: $(READY) # a small GPT on tinyshakespeare
	@$(BIN)/python scripts/train.py experiment=quickstart

sweep: $(READY) # 27 small models and their leaderboard; make board shows them
	@$(BIN)/python scripts/train.py sweep=first

test: $(COMPARED) $(DOCS)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-next: $(NEXT)/.ready # the same with tomorrow's Hydra
	@$(NEXT)/bin/python -m pytest -n 2 $(ARGS)

test-slow: $(COMPARED) $(DOCS) # the proofs that take minutes: many kills, whole experiments, variants of the rest
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(READY) # the main path on a GPU, where there is one
	@$(BIN)/python -m pytest -m gpu tests/test_gpu.py $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(DOCS) # the pages as a site, with search: http://127.0.0.1:8000; ctrl-c ends it
	@PYTHONPATH=$(dir $(DOCS)) NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

bench: $(READY) # beside loops written by hand; ARGS='steps --quick' for less
	@$(BIN)/python scripts/bench.py $(ARGS)

bench-docs: # the last results into docs/performance.md
	@sed -i '/^<!-- measured/q' docs/performance.md
	@$(BIN)/python scripts/bench.py --markdown >> docs/performance.md

board: $(READY) # TensorBoard on every run; ctrl-c ends it
	@$(BIN)/python scripts/board.py $(ARGS)

# torch stays as it is locked: to move it, write its new version into requirements.lock first. pip is
# given that exact version and no range, since a range may bring a build for CUDA, of gigabytes.
lock: # pin what pyproject.toml allows, for the oldest Python that is supported
	python3.11 -m venv .venv-lock
	grep '^torch==' requirements.lock > .venv-lock/torch.txt
	.venv-lock/bin/pip install --quiet --requirement .venv-lock/torch.txt pip-tools
	.venv-lock/bin/pip-compile --quiet --upgrade --strip-extras --no-header --no-annotate \
		--extra bpe --extra data --extra dev --extra mlflow --extra slurm --extra sweep --extra wandb \
		--constraint .venv-lock/torch.txt \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe \
		--output-file requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock # the plain version: CPU or GPU build as pip finds it
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .pytest_cache .mypy_cache .ruff_cache dist
