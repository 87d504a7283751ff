#!/bin/sh
# Installs the runtime into an environment of its own, not editable, and runs its tests there.
#   scripts/test-runtime.sh FOLDER PYTHON [CONSTRAINTS]      e.g.  scripts/test-runtime.sh build/python3.13 python3.13
# CONSTRAINTS is a file for pip; PIP_FLAGS are handed to pip install, PYTEST_FLAGS to pytest.
set -eu
venv=$1
python=$2
constraints=${3:-/dev/null}

"$python" -m venv --clear "$venv"
# shellcheck disable=SC2086  # words
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --prefer-binary ${PIP_FLAGS:-} \
    --constraint "$constraints" ".[opencv,onnxruntime]" onnx pytest hypothesis
"$venv/bin/python" -c 'import cv2, numpy, platform; print("Python", platform.python_version(), "numpy", numpy.__version__, "OpenCV", cv2.__version__)'
# shellcheck disable=SC2086
"$venv/bin/python" -m pytest -q -m "not slow" -p no:cacheprovider ${PYTEST_FLAGS:-} tests/runtime
