# `make help` lists the targets. Everything happens in .venv; nothing outside this folder is changed.

VENV := .venv
# The first Python >= 3.11 found; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Empty files that say what is installed: for `make reproduce`, and for tests, docs and lint as well. LOCKED=1: in the
# versions of constraints.txt.
INSTALLED := $(VENV)/.installed$(if $(LOCKED),-locked)
DEVELOP := $(VENV)/.develop$(if $(LOCKED),-locked)
# Processes of the tests.
WORKERS := 2
# What `make paper` runs.
NAME := $(or $(EXPERIMENT),evidence-mlp)
# Where `make pipelines` writes: the committed folders, or with QUICK=1 the folder build.
MEASURED := $(if $(QUICK),build,results)
PAGES := $(if $(QUICK),build/pages,paper_figures/out)

# Scripts that DVC starts find the environment's Python first; -u keeps their lines in order.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
# Empty: what is imported is compiled once, also where the user's shell says otherwise.
export PYTHONDONTWRITEBYTECODE :=
export DVC_NO_ANALYTICS := 1
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help install develop reproduce tune compare paper pipelines graphs readme site pdf test test-all mutants chaos chaos-long lint lock ui plots dashboard clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(INSTALLED) ## install into .venv what `make reproduce` needs; LOCKED=1: the versions of the published numbers

develop: $(DEVELOP) ## install what tests and lint need as well

# The published results are those of another machine: the first time, they make room for this one's, and git or a copy
# keeps them. What was trained here has its times beside it, so a start that was stopped goes on.
reproduce: $(INSTALLED) ## train everything, draw figures and tables, write the report (minutes; a second run: seconds)
	@test -e results/times || { python -m paper_figures.published && rm -rf results/runs && mkdir results/times; }
	@dvc repro paper
	@echo
	@python -m paper_figures.compare --page || test $$? -eq 1
	@echo
	@echo 'Look at:'
	@echo '  paper_figures/out/report.md   verdict per claim and a page per question; make site: to browse them'
	@echo '  results/runs.csv              every run in one table; results/runs/ holds their records'
	@echo '  make ui                       browse the runs in MLflow'

tune: $(INSTALLED) ## search the learning rates of the default study anew (40 minutes); make reproduce takes them from there
	@python -m experiments.tune mnist1d
	@dvc commit --force tune

compare: $(INSTALLED) ## published results and those of this folder side by side; REV=a commit; fails if a verdict differs
	@python -m paper_figures.compare $(REV)

paper: $(INSTALLED) ## run a larger experiment; EXPERIMENT=a file of experiments/ (default evidence-mlp), YES=1: don't ask
	@python -m experiments.tune $(NAME)
	@python -m experiments.run $(NAME) $(if $(YES),--yes)
	@python -m experiments.collect $(NAME)
	@python -m paper_figures.build page $(NAME)

pipelines: $(INSTALLED) ## measure pipelines on real processes (30 minutes on an idle machine); QUICK=1: a short try
	@python -m experiments.pipelines.benchmark $(if $(QUICK),--quick) --out $(MEASURED)/pipelines
	@python -m experiments.pipelines.regimes $(if $(QUICK),--quick) --out $(MEASURED)/pipelines/map
	@python -m experiments.pipelines.time_to_loss $(if $(QUICK),--quick) --out $(MEASURED)/pipelines/time_to_loss
	@python -m paper_figures.build page pipelines --results $(MEASURED) --out $(PAGES)

graphs: $(INSTALLED) ## time loaders of sampled graphs (minutes, on an idle machine); WordNet too where its files are
	@python -m experiments.graphs --out results/graphs
	@test ! -e /usr/share/wordnet/data.noun || python -m experiments.graphs --graph wordnet --width 256 \
		--fan-out 15 10 5 --batch-size 1024 --seeds 0 --out results/graphs
	@python -m paper_figures.build page graphs

readme: $(INSTALLED) ## put the measured results into README.md and docs
	@python -m paper_figures.build readme

test: $(DEVELOP) ## run the tests, with samples of the slow proofs, in two processes (ten minutes)
	@python -m pytest -n $(WORKERS) --dist loadscope -m 'not slow'

test-all: $(DEVELOP) ## run all tests, with the slow proofs whole, and networks of other libraries
	@python -m pip install --quiet --disable-pip-version-check --editable '.[models]'
	@python -m pytest -n $(WORKERS) --dist loadscope

mutants: $(DEVELOP) ## which small changes of the engine does no test notice? SAMPLE=40|all (all: a night), SEED=0, ONLY=engine/*
	@python -m tests.mutation.run --sample $(or $(SAMPLE),40) --seed $(or $(SEED),0) --only '$(or $(ONLY),*)'

chaos: $(DEVELOP) ## attack this project for three minutes: kills, fuzzed inputs, damage, random trainings
	@python -m tests.chaos --minutes 2.5

chaos-long: $(DEVELOP) ## attack it for hours and write docs/reliability.md; MINUTES=30: a part, and the next call goes on
	@python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4' || echo 'going on without atheris'
	@nice -n 10 python -m tests.chaos --long --write $(if $(MINUTES),--minutes $(MINUTES))

# A build that fails leaves the site that is there. (With --quiet, --strict would let warnings pass.)
site: $(INSTALLED) ## build report and documentation into build/site, to open from disk without a network
	@rm -rf build/site.new
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --site-dir build/site.new 2>build/site.log || \
		{ grep -v ^INFO build/site.log >&2; exit 2; }
	@rm -rf build/site && mv build/site.new build/site
	@echo build/site/index.html

pdf: site ## print the results as one file, build/report.pdf; needs Chromium
	@python -m docs.pdf

lint: $(DEVELOP) ## check style, docstrings and types
	@ruff check
	@ruff format --check
	@mypy

lock: $(DEVELOP) ## write the versions of this environment into constraints.txt
	@{ grep '^#' constraints.txt; python -m pip freeze --exclude-editable | sed 's/+[^ ]*$$//'; } > constraints.new
	@mv constraints.new constraints.txt

# Runs that end while the pages are open come in within half a minute.
ui: $(INSTALLED) ## browse all runs in MLflow on 127.0.0.1 (PORT=5000; Ctrl-C ends it); prints the links to open
	@python -m experiments.track --port $(or $(PORT),5000)
	@python -m experiments.track --every 30 & trap "kill $$!" EXIT; MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(or $(PORT),5000) --workers 1

plots: $(INSTALLED) ## write dvc_plots/index.html, DVC's curves by epoch, which needs no network; REV=main compares with it
	@python -m pip install --quiet --disable-pip-version-check 'vl-convert-python>=1.7,<2'
	@mkdir -p dvc_plots
	@python -c 'import vl_convert; print(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))' > dvc_plots/vega.new
	@mv dvc_plots/vega.new dvc_plots/vega.js
	@dvc plots $(if $(REV),diff $(REV),show)

dashboard: $(INSTALLED) ## look at a study in optuna-dashboard on 127.0.0.1: STUDY=its folder (default: study), PORT=8080
	@test -f '$(or $(STUDY),study)/journal.log' || \
		{ echo 'make dashboard: error: there is no study in $(or $(STUDY),study); give STUDY=FOLDER' >&2; exit 2; }
	@python -m pip install --quiet --disable-pip-version-check 'optuna-dashboard>=0.18,<1'
	@optuna-dashboard --host 127.0.0.1 --port $(or $(PORT),8080) '$(or $(STUDY),study)/journal.log'

clean: ## remove the environment, studies and times of `make reproduce` (it then trains all anew), and caches
	rm -rf $(VENV) results/times results/times.csv results/tune .dvc/cache .dvc/tmp mlflow.db* mlartifacts checkpoints lightning_logs
	rm -rf .pytest_cache .mypy_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv resolves, downloads and unpacks side by side: a third of pip's time. It reads none of pip's settings, so those that say
# where packages come from are handed on.
PIP_SETTINGS = $(VENV)/bin/python -m pip config list | sed -n -E \
	-e "s/^[^.]*\.index-url=/export UV_DEFAULT_INDEX=/p" -e "s/^[^.]*\.extra-index-url=/export UV_INDEX=/p" \
	-e "s/^[^.]*\.find-links=/export UV_FIND_LINKS=/p" -e "s/^[^.]*\.constraint=/export UV_CONSTRAINT=/p" \
	-e "s/^[^.]*\.cert=/export SSL_CERT_FILE=/p"

# Reinstalled when the dependencies change, and only then. That file is written last, so a broken installation is repeated.
$(INSTALLED): EXTRA := reproduce
$(DEVELOP): EXTRA := all
$(INSTALLED) $(DEVELOP): pyproject.toml $(if $(LOCKED),constraints.txt)
	@test -n '$(PYTHON)' || { \
		echo 'make: error: no Python >= 3.11 found; install one, or give PYTHON=/path/to/python'; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'make: error: $(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv'; exit 2; }
	@echo 'installing into $(VENV) (a minute or two)'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	@eval "$$($(PIP_SETTINGS))"; $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python \
		$(if $(LOCKED),--constraint constraints.txt) --editable '.[$(EXTRA)]'
	@touch $@ $(if $(filter all,$(EXTRA)),$(INSTALLED))
