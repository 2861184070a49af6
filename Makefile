# plumbline: every command that you type. What a run does is in its recipe; see recipes/.
#
#   make STAGE [RECIPE=recipes/....yaml] [ARGS="section.key=value ..."] [SEED=1] [HARDWARE=cpu_2]
#
# RECIPE    which recipe; the tiny world's by default
# ARGS      what differs from it
# SEED      run.seed, and for the tiny recipes the folder: runs/tiny, or runs/tiny-SEED
# HARDWARE  a file of recipes/accelerate/ without its .yaml, or auto; one process on what is there by default
# RESTARTS  with HARDWARE: how often all processes restart from the last checkpoint when one dies; 0 by default

PYTHON3 ?= python3
PYTHON := .venv/bin/python
STAMP := .venv/.installed

# MINI=1 takes a few steps of everything, in runs/tiny-mini: to see that it works, not what comes out.
TINY_RECIPES := recipes/tiny$(if $(MINI),-mini)
ifneq ($(filter-out 0,$(SEED)),)
export TINY := runs/tiny$(if $(MINI),-mini)-$(SEED)
else
export TINY ?= runs/tiny$(if $(MINI),-mini)
endif
# Before ARGS, so that ARGS has the last word.
OVERRIDES = $(if $(SEED),run.seed=$(SEED)) $(ARGS)

ifneq ($(and $(RECIPE),$(filter tiny,$(MAKECMDGOALS))),)
$(error RECIPE= is for one stage; make tiny runs all of recipes/tiny)
endif

.PHONY: help setup test check drill bench claims tiny-seeds world tiny base sft pmp rm harmless ppo eval report show plan merge release push
.PHONY: chat
.PHONY: prompts candidates pairs annotated
.DEFAULT_GOAL := help

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "tiny     the whole pipeline on an embedded world: world base sft pmp rm harmless ppo eval report"
	@echo "world    generate that world             base     pretrain a base model on plain text"
	@echo "sft      supervised finetuning           pmp, rm  preference model, then reward model"
	@echo "harmless a second reward model, of harm"
	@echo "ppo      PPO                             eval     measure; then report: report.html"
	@echo "show     data as a stage sees it         chat     talk to a model"
	@echo "plan     what a run will take: memory of each device, steps, hours, and what to change if it does not fit"
	@echo "prompts, candidates, pairs: comparisons made the report's way; annotated: the tiny reward model on such"
	@echo "merge    adapters into weights           push     a finished model to the hub"
	@echo "release  a checkpoint of SFT or PPO as a model folder"
	@echo "setup    .venv (others do it too)        test, check, bench"
	@echo "claims   what the report says of PPO, tried in the tiny world: docs/claims.md"
	@echo "tiny-seeds  whether the tiny world aligns, whatever the seed and the threads"
	@echo "drill    kill a small PPO run twenty times and compare how it ends"

setup: $(STAMP)

$(STAMP): requirements.txt constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: plumbline needs Python 3.11 or newer as $(PYTHON3); install it, or name another: make PYTHON3=python3.12" >&2; exit 1; }
	@$(PYTHON3) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON3) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -r requirements.txt
	@touch $@

# A test keeps hardly more than one core busy, so several run at a time, of one thread each.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses logical --maxprocesses 4 $(ARGS)

# ARGS="KILLS SEED"
drill: $(STAMP)
	$(PYTHON) -m tests.support.drill $(ARGS)

check: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

bench: $(STAMP)
	$(PYTHON) -m bench $(ARGS)

# Some two hours on two cores; may be stopped and given again.
claims: $(STAMP)
	$(PYTHON) -m bench.claims $(ARGS)

# Over an hour on two cores; when it is stopped, the same command continues.
tiny-seeds: $(STAMP)
	$(PYTHON) -m bench.tiny_seeds $(ARGS)

# $(call run,STAGE): the recipe is checked, without torch, before processes are launched; what auto stands for is planned.
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

# Comparisons for the tiny world's reward model made the report's way; runs/tiny has to be there as far as pmp.
annotated: $(STAMP)
	+@set -e; for stage in base sft prompts candidates pairs rm; do \
		$(MAKE) --no-print-directory $$stage RECIPE=recipes/tiny-annotated/$$stage.yaml; done

# One process whatever HARDWARE is: these measure, and hold no more than two models at a time.
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

# One after the other, also under make -j; the first that fails ends it.
tiny: $(STAMP)
	+@set -e; for stage in world base sft pmp rm harmless ppo eval report; do $(MAKE) --no-print-directory $$stage; done
