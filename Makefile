# One virtual environment with everything, built once. It needs Python 3.10 to 3.13 with its headers
# and venv module, a C++ compiler and the package registry; after that no network.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action)

# A ROS installation that the shell has sourced must not mix with the wheels.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH

.PHONY: help setup demo demo-finetune test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   play a recorded camera through the predictor node; pictures end up in demo_output/"
	@echo "make demo-finetune   adapt the weights to that recording; the report ends up there too"
	@echo "make test   run all tests"
	@echo "make lint   check style and types"
	@echo "make setup  only build the virtual environment $(VENV), with fpt_ros in editable mode"
	@echo "make clean  remove everything that was built"

setup: $(STAMP)

# Editable: changed Python files need no new installation, changed messages do.
$(STAMP): Makefile CMakeLists.txt constraints.txt package.xml pyproject.toml setup.py $(INTERFACES) $(wildcard cmake/*)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --constraint constraints.txt --editable '.[demo,engines,int8,scenes,train,test,colcon]'
	touch $@

demo: $(STAMP)
	$(RUN) -m demo

demo-finetune: $(STAMP)
	$(RUN) -m demo.finetune

# Three files at a time, each with one thread, on two cores too: some wait for other processes. In the
# order of test/conftest.py: pytest-xdist would begin with the files that have the most tests. A crash
# ends the run: pytest-xdist would start another process, give it nothing and wait for ever.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0

lint: $(STAMP)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build install log dist demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf fpt_ros/msg fpt_ros/srv fpt_ros/action fpt_ros/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
