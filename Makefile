# make demo   sets everything up and shows the whole chain      make test   sets everything up and runs the tests
# PYTHON=python3.12 chooses another Python, PIP_FLAGS=... is handed to pip install, VENV_FLAGS=--system-site-packages to venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KERNEL_FOLDERS := host shared simd vision captions tracking
KERNELS := $(foreach folder,. $(KERNEL_FOLDERS),$(wildcard runtime/csrc/$(folder)/*.?pp))
CPP_FILES := $(KERNELS) $(wildcard runtime/csrc/cuda/* runtime/csrc/c_api/*.h runtime/csrc/c_api/*.?pp tests/native/*.c* tests/native/*.hpp examples/cpp/*.?pp)
PACKAGING := setup.py pyproject.toml constraints.txt scripts/make-venv.sh $(KERNELS)
STAGES := train evaluation export runtime benchmarks
PYTHON_CODE := setup.py cli $(STAGES) tests

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format typecheck sanitize clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## list what can be made
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(VENV)/.made-for-dev  ## set up .venv with everything, tools for development included

demo: $(VENV)/.made-for-demo  ## export the demo checkpoint, verify it, run it on pictures, measure it
	$(BIN)/yolor-edge demo --out demo-out

test: $(VENV)/.made-for-dev  ## run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.made-for-dev  ## check layout and style of Python and C++
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/.made-for-dev  ## lay out Python and C++
	$(BIN)/ruff check --fix-only $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(CPP_FILES)

typecheck: $(VENV)/.made-for-dev build/typing  ## check types with pyright
	$(BIN)/pyright

sanitize: $(foreach what,address thread,build/sanitize/$(what) build/sanitize/captions-$(what) build/sanitize/recycling-$(what) build/sanitize/tracking-$(what))  ## run the kernels under address, undefined and thread sanitizers
	for run in $^; do echo $$run && $$run || exit 1; done

clean:  ## remove what was built
	rm -rf build dist demo-out *.egg-info runtime/_native*.so runtime/cuda/kernels/kernels.* .pytest_cache .ruff_cache .hypothesis
	rm -f $(VENV)/.made-for-*

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

$(VENV)/.made-for-demo: $(PACKAGING)
	scripts/make-venv.sh $(VENV) $(PYTHON) train,export,onnxruntime,bench
	@touch $@

$(VENV)/.made-for-dev: $(PACKAGING)
	scripts/make-venv.sh $(VENV) $(PYTHON) train,export,onnxruntime,bench,dev
	@touch $@ $(VENV)/.made-for-demo

include native.mk

comma := ,
NATIVE := $(filter-out runtime/csrc/./bindings%,$(filter %.cpp,$(KERNELS)))
SANITIZE := $(CXX) -std=c++17 -O1 -g -Wall -Wextra -Werror -Wno-maybe-uninitialized -ffp-contract=off -fno-sanitize-recover=all -Iruntime/csrc -pthread

build/sanitize/address: tests/native/kernels.cpp $(KERNELS)
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=address,undefined -o $@ $< $(NATIVE)

build/sanitize/thread: tests/native/kernels.cpp $(KERNELS)
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=thread -o $@ $< $(NATIVE)

build/sanitize/captions-address: tests/native/captions.cpp $(KERNELS)
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=address,undefined -o $@ $< $(NATIVE)

build/sanitize/captions-thread: tests/native/captions.cpp $(KERNELS)
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=thread -o $@ $< $(NATIVE)

build/sanitize/recycling-address build/sanitize/recycling-thread: tests/native/recycling.cpp runtime/csrc/host/recycling.cpp runtime/csrc/host/recycling.hpp
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=$(subst address,address$(comma)undefined,$(@F:recycling-%=%)) -o $@ $< runtime/csrc/host/recycling.cpp

build/sanitize/tracking-address build/sanitize/tracking-thread: tests/native/tracking.cpp $(wildcard runtime/csrc/tracking/*)
	@mkdir -p $(@D)
	$(SANITIZE) -fsanitize=$(subst address,address$(comma)undefined,$(@F:tracking-%=%)) -o $@ $< $(wildcard runtime/csrc/tracking/*.cpp)

# The stages lie beside cli, which is imported as yolor_edge, and are imported from inside it; links show that to pyright.
build/typing: Makefile $(wildcard cli/*.py)
	rm -rf $@
	mkdir -p $@/yolor_edge
	for stage in $(STAGES); do ln -s ../../../$$stage $@/yolor_edge/$$stage; done
	for file in $(notdir $(wildcard cli/*.py)) py.typed commands; do ln -s ../../../cli/$$file $@/yolor_edge/$$file; done
