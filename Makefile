# `make` lists the targets. Each sets up what it needs first; a second run sets nothing up again.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build demo test bundle benchmark lint format clean

IN_VENV := source scripts/env.sh;
COLCON := colcon --log-level error

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## make .venv with everything that build, demo and test need (a sourced ROS 2, else wheels)
	@scripts/setup.sh

build: setup ## colcon build into install/
	@$(IN_VENV) $(COLCON) build --base-paths . --cmake-args -DPython3_EXECUTABLE="$$VIRTUAL_ENV/bin/python" \
	  -DPython3_FIND_VIRTUALENV=ONLY -DCMAKE_BUILD_TYPE=Release --no-warn-unused-cli

demo: build ## robot, planner and recorder over DDS with the shipped bundle, then learn from what was recorded
	@$(IN_VENV) install/tc_mmwm_ros/lib/tc_mmwm_ros/demo

test: build ## the whole test suite through colcon test (PYTEST_ADDOPTS="-k planner" runs a part)
	@rm -rf build/tc_mmwm_ros/test_results build/tc_mmwm_ros/Testing
	@$(IN_VENV) status=0; \
	  $(COLCON) test --base-paths . --event-handlers console_direct+ --return-code-on-test-failure || status=$$?; \
	  colcon test-result --verbose || status=$$?; \
	  grep -E '^=+ .+ in .+ =+$$' build/tc_mmwm_ros/ament_cmake_pytest/test.txt | tail -n 1; \
	  exit $$status

bundle: bundle-navigation bundle-manipulation ## retrain the shipped bundles from nothing: collect, train, export, evaluate (hours on 2 cores)

bundle-navigation: LENGTH := --steps 50
bundle-navigation: BOUND := --alpha 0.02
bundle-manipulation: LENGTH := --steps 80
# manipulation's bundle is trained a second time, on what the first one gets itself into as well, and on what is tried at the puck
bundle-manipulation: ROUND_2 = \
	  [ -e runs/$*_first/bundle.json ] || tc-mmwm export runs/$* --data data/$* data/$*_calibration --output runs/$*_first; \
	  tc-mmwm collect --domain $* --bundle runs/$*_first $(DRIVEN) --disturb occlusion action_noise --episodes 600 --steps 160 \
	    --seed 200000 --output data/$*_again --workers $$(nproc); \
	  tc-mmwm collect --domain $* --driver fumbler --episodes 2000 --steps 100 --seed 210000 --output data/$*_explored \
	    --workers $$(nproc); \
	  tc-mmwm train --config config/train/$*_again.yaml --init runs/$*_first --output runs/$*_again \
	    --data data/$* data/$*_explored data/$*_again data/$*_again data/$*_again;
bundle-manipulation: LAST := _again
DRIVEN = $(patsubst %,--planner %,$(wildcard config/planner/$*.yaml))
bundle-%: build
	@$(IN_VENV) \
	  tc-mmwm collect --domain $* --episodes 4000 $(LENGTH) --seed 100000 --output data/$* --workers $$(nproc); \
	  tc-mmwm collect --domain $* --episodes 1000 $(LENGTH) --seed 104000 --output data/$*_calibration --workers $$(nproc); \
	  tc-mmwm train --config config/train/$*.yaml --data data/$* --output runs/$*; \
	  $(ROUND_2) \
	  tc-mmwm export runs/$*$(LAST) --data data/$* $(patsubst %,data/$*%,$(LAST)) data/$*_calibration $(BOUND) --output bundles/$*; \
	  tc-mmwm evaluate --domain $* --bundle bundles/$* $(DRIVEN) \
	    --episodes 200 --factor-episodes 30 --perturbed-episodes 100 --probes 400 \
	    --workers $$(nproc) --output runs/$*/evaluation --json docs/results/$*.json

PLAN := $(if $(QUICK),quick,default)
benchmark: build ## rerun the whole benchmark (days on a CPU; it goes on where it was); PLAN=cpu: with the shipped models; QUICK=1: in minutes
	@$(IN_VENV) tc-mmwm benchmark --config $(PLAN) --workers $$(nproc) \
	  $(if $(filter quick,$(PLAN)),,--json docs/results/benchmark.json)

lint: setup ## ruff check and format check, as test/test_style.py holds them
	@$(IN_VENV) ruff check . && ruff format --check .

format: setup ## let ruff mend what it can
	@$(IN_VENV) ruff check --fix . && ruff format .

clean: ## remove everything that setup and build made
	rm -rf .venv build install log
