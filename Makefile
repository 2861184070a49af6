# plumbline: all commands. The recipe (see recipes/) defines what a run does.
#
#   make STAGE [RECIPE=recipes/....yaml] [ARGS="section.key=value ..."] [SEED=1] [HARDWARE=cpu_2]
#
# RECIPE    the recipe; default: that of the tiny world
# ARGS      overrides of the recipe
# SEED      run.seed; the tiny recipes also write to runs/tiny-SEED instead of runs/tiny
# MODEL     the model that recipes/your-model starts from: a folder or a hub id; RUNS: where its runs go
# HARDWARE  a file of recipes/accelerate/ without .yaml, or auto; default: one rank on the GPU, or on the CPU without one
# RESTARTS  with HARDWARE: how many times all ranks restart from the last checkpoint after one dies; default: 0

PYTHON3 ?= python3
PYTHON := .venv/bin/python
STAMP := .venv/.installed

# MINI=1 runs a few steps of every stage, in runs/tiny-mini: a test that they run, without useful results.
TINY_RECIPES := recipes/tiny$(if $(MINI),-mini)
ifneq ($(filter-out 0,$(SEED)),)
export TINY := runs/tiny$(if $(MINI),-mini)-$(SEED)
else
export TINY ?= runs/tiny$(if $(MINI),-mini)
endif
# ARGS comes last, so that it takes precedence.
OVERRIDES = $(if $(SEED),run.seed=$(SEED)) $(ARGS)

ifneq ($(and $(RECIPE),$(filter tiny,$(MAKECMDGOALS))),)
$(error RECIPE= is for a single stage; make tiny runs all of recipes/tiny)
endif

.PHONY: help setup test check drill bench claims tiny-seeds world tiny base sft pmp rm harmless ppo eval report show plan merge release push
.PHONY: chat
.PHONY: prompts candidates pairs annotated
.DEFAULT_GOAL := help

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "tiny     the whole pipeline on the tiny world: world base sft pmp rm harmless ppo eval report"
	@echo "world    generate the tiny world         base     pretrain a base model on plain text"
	@echo "sft      supervised finetuning           pmp, rm  preference model, then reward model"
	@echo "harmless the second reward model, which prefers harmless responses"
	@echo "ppo      PPO                             eval     evaluate; then report: write report.html"
	@echo "show     data as a stage sees it         chat     chat with a model"
	@echo "plan     estimate memory per device, steps and hours of a run, and what to change if it does not fit"
	@echo "prompts, candidates, pairs: create comparisons as in the report; annotated: all of it for the tiny reward model"
	@echo "merge    merge adapters into weights     push     upload a finished model to the hub"
	@echo "release  export a checkpoint of SFT or PPO as a model folder"
	@echo "setup    create .venv (automatic)        test, check, bench  run the tests, the linter and type checker, the benchmarks"
	@echo "claims   test the report's claims about PPO in the tiny world: docs/claims.md"
	@echo "tiny-seeds  test whether the tiny world aligns on several seeds and numbers of threads: docs/tiny_seeds.md"
	@echo "drill    kill and resume a small PPO run twenty times, and compare the result with that of an unbroken run"

setup: $(STAMP)

$(STAMP): requirements.txt constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: plumbline needs Python 3.11 or newer as $(PYTHON3); install it, or use another: make PYTHON3=python3.12" >&2; exit 1; }
	@$(PYTHON3) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON3) cannot create virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -r requirements.txt
	@touch $@

# A test uses little more than one core, so several run at a time with one thread each.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses logical --maxprocesses 4 $(ARGS)

# ARGS="KILLS SEED"
drill: $(STAMP)
	$(PYTHON) -m tests.support.drill $(ARGS)

check: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: $(STAMP)
	$(PYTHON) -m bench $(ARGS)

# Takes more than an hour on two cores. You can stop it and run it again.
claims: $(STAMP)
	$(PYTHON) -m bench.claims $(ARGS)

# Takes more than an hour on two cores. You can stop it and run it again.
tiny-seeds: $(STAMP)
	$(PYTHON) -m bench.tiny_seeds $(ARGS)

# $(call run,STAGE): with HARDWARE, checks the recipe without torch before it launches ranks; auto is resolved by plan.choose.
define run
	$(if $(HARDWARE),@$(PYTHON) -m $(1) $(RECIPE) --check $(OVERRIDES))
	$(if $(filter auto,$(HARDWARE)),hardware=$$($(PYTHON) -m plan.choose $(RECIPE) $(OVERRIDES)) && )$(PYTHON) -m $(launcher)$(1) $(RECIPE) $(OVERRIDES)
endef
launcher = $(if $(HARDWARE),engine.run.launch $(if $(filter auto,$(HARDWARE)),$$hardware,$(HARDWARE)) )

base sft pmp rm harmless ppo: RECIPE ?= $(TINY_RECIPES)/$@.yaml
eval report: RECIPE ?= $(TINY_RECIPES)/eval.yaml
prompts candidates pairs: RECIPE ?= recipes/tiny-annotated/$@.yaml
show plan: RECIPE ?= $(TINY_RECIPES)/sft.yaml
chat: RECIPE ?= $(TINY_RECIPES)/ppo.yaml

world: $(STAMP)
	$(PYTHON) -m tiny $(TINY)/world --seed $(or $(SEED),0)

base sft: $(STAMP)
	$(call run,sft)

pmp rm harmless: $(STAMP)
	$(call run,reward)

ppo: $(STAMP)
	$(call run,ppo)

prompts candidates pairs: $(STAMP)
	$(PYTHON) -m reward.$@ $(RECIPE) $(OVERRIDES)

# Comparisons for the tiny reward model, created as in the report. Needs the stages of `make tiny` up to pmp.
annotated: $(STAMP)
	+@set -e; for stage in base sft prompts candidates pairs rm; do \
		$(MAKE) --no-print-directory $$stage RECIPE=recipes/tiny-annotated/$$stage.yaml; done

# One process, whatever HARDWARE is: an evaluation has at most two models in memory at a time.
eval: $(STAMP)
	$(PYTHON) -m eval $(RECIPE) $(OVERRIDES)

report: $(STAMP)
	$(PYTHON) -m eval.report $(RECIPE) $(OVERRIDES)

show: $(STAMP)
	@$(PYTHON) -m show $(RECIPE) $(OVERRIDES)

plan: $(STAMP)
	@$(PYTHON) -m plan $(RECIPE) $(if $(HARDWARE),plan.hardware=$(HARDWARE)) $(OVERRIDES)

chat: $(STAMP)
	$(PYTHON) -m release.chat $(RECIPE) $(OVERRIDES)

merge: $(STAMP)
	$(PYTHON) -m release.merge $(ARGS)

# ARGS="RUN OUT step=40"
release: $(STAMP)
	$(PYTHON) -m release.checkpoint $(ARGS)

# ARGS="RUN OWNER/NAME"
push: $(STAMP)
	$(PYTHON) -m release.push $(ARGS)

# Runs the stages in order, also with make -j, and stops at the first that fails.
tiny: $(STAMP)
	+@set -e; for stage in world base sft pmp rm harmless ppo eval report; do $(MAKE) --no-print-directory $$stage; done
