#!/bin/sh
# Builds wheels for Linux on x86-64 and 64-bit ARM into a folder, one for each Python and processor.
#   scripts/make-wheels.sh FOLDER PYTHON [PYTHON ...]      e.g.  scripts/make-wheels.sh dist python3.10 python3.12
# The compiler is zig's, from PyPI: one clang for both processors that links against an old glibc (2.17, hence the tag
# manylinux2014) and brings its own C++ library. Python's headers are those of the Python at hand: on 64-bit Linux they
# say the same on both processors. WHEEL_ARCHS="x86_64 aarch64" chooses. What is missing is told in one line.
set -eu
out=$1
shift
glibc=2.17
root=$PWD
work=$root/build/wheels

fail() {
    echo "make: $*" >&2
    exit 1
}

mkdir -p "$out" "$work"
out=$(cd "$out" && pwd)
for python in "$@"; do
    command -v "$python" >/dev/null 2>&1 || fail "$python is not there; name others: make wheels PYTHONS=\"python3.12\""
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    venv=$work/venv-$tag
    if [ ! -e "$venv/.made" ]; then
        "$python" -m venv "$venv"
        # shellcheck disable=SC2086  # PIP_FLAGS are words
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_FLAGS:-} \
            "setuptools>=77" "pybind11>=2.13" wheel ziglang auditwheel || fail "pip could not install what builds wheels"
        touch "$venv/.made"
    fi
    for arch in ${WHEEL_ARCHS:-x86_64 aarch64}; do
        target=$arch-linux-gnu.$glibc
        zig="$venv/bin/python -m ziglang"
        build=$work/$tag-$arch
        rm -rf "$build"
        mkdir -p "$build/out"
        printf '[build]\nbuild_base = %s/build\n[bdist_wheel]\nplat_name = manylinux2014_%s\n' "$build" "$arch" >"$build/config"
        soabi=$("$venv/bin/python" -c 'import sys; print("cpython-%d%d" % sys.version_info[:2])')
        echo "$tag $arch"
        env CC="$zig cc -target $target" CXX="$zig c++ -target $target" LDSHARED="$zig c++ -target $target -shared" \
            LDCXXSHARED="$zig c++ -target $target -shared" CFLAGS="-g0" LDFLAGS="-s" ARCHFLAGS="" \
            DIST_EXTRA_CONFIG="$build/config" _PYTHON_HOST_PLATFORM="linux-$arch" \
            SETUPTOOLS_EXT_SUFFIX=".$soabi-$arch-linux-gnu.so" \
            "$venv/bin/python" -W ignore -c \
            'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])' "$build/out" \
            >"$build/log" 2>&1 || fail "the wheel for $tag on $arch could not be built; see $build/log"
        mv "$build"/out/*.whl "$out"
    done
done
