#!/bin/sh
# Makes a virtual environment and installs this package into it, editable, with the extras named.
#   scripts/make-venv.sh FOLDER PYTHON EXTRAS      e.g.  scripts/make-venv.sh .venv python3 train,export,onnxruntime
# PIP_FLAGS are handed to pip install, VENV_FLAGS to venv; --system-site-packages is what a Jetson needs, whose TensorRT
# and OpenCV come with JetPack, and is taken there by itself. Where no OpenCV is to be had so, its wheel is installed too.
# What is missing is told in one line.
set -eu
venv=$1
python=$2
extras=$3

fail() {
    echo "make: $*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "$python is not there; install python3 (Debian, Ubuntu: apt install python3)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version 2>&1) is too old, 3.10 is needed; name another one: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; install its venv (Debian, Ubuntu: apt install python3-venv)"
if ! command -v "${CXX:-g++}" >/dev/null 2>&1; then
    if command -v clang++ >/dev/null 2>&1; then
        CC=clang CXX=clang++
        export CC CXX
    else
        fail "there is no C++ compiler; install one (Debian, Ubuntu: apt install g++)"
    fi
fi

# Debian ships the headers of Python in a package of their own. Without them, they are fetched beside the build.
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -e "$include/Python.h" ]; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    headers=build/python-headers
    if [ ! -e "$headers/usr/include/python$version/Python.h" ]; then
        rm -rf "$headers"
        mkdir -p "$headers"
        (cd "$headers" && apt-get download "libpython$version-dev" && dpkg-deb -x ./*.deb . && rm ./*.deb) >/dev/null 2>&1 ||
            fail "Python.h is not there; install Python's headers (Debian, Ubuntu: apt install python3-dev)"
    fi
    CPATH="$PWD/$headers/usr/include/python$version:$PWD/$headers/usr/include${CPATH:+:$CPATH}"
    export CPATH
fi

if [ -z "${VENV_FLAGS:-}" ] && [ -e /etc/nv_tegra_release ]; then
    VENV_FLAGS=--system-site-packages
fi
# shellcheck disable=SC2086  # words, as PIP_FLAGS are
"$python" -m venv ${VENV_FLAGS:-} "$venv"
# A cv2 that the system brings stays what it is, and so does the numpy that it was built for.
numpy=
if "$venv/bin/python" -c 'import cv2; cv2.imdecode' 2>/dev/null; then
    "$venv/bin/python" -c 'import numpy, sys; sys.exit(numpy.__version__[0] != "1")' && numpy="numpy>=1.22,<2"
else
    extras=$extras,opencv
fi
# shellcheck disable=SC2086  # PIP_FLAGS are words
"$venv/bin/python" -m pip install --disable-pip-version-check --prefer-binary --constraint constraints.txt \
    ${PIP_FLAGS:-} --editable ".[$extras]" ${numpy:+"$numpy"} ||
    fail "pip could not install yolor-edge[$extras]; what it said stands above"

# The stubs of TensorRT would have TensorRT itself installed, which builds only beside an NVIDIA driver; types need none.
case ",$extras," in
*,dev,*)
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --disable-pip-version-check --constraint constraints.txt \
        ${PIP_FLAGS:-} --no-deps tensorrt-stubs ||
        fail "pip could not install tensorrt-stubs; what it said stands above"
    ;;
esac
