#!/bin/sh
# Builds wheels for Linux on x86-64 and 64-bit ARM into a folder, one for each Python and processor.
#   scripts/make-wheels.sh FOLDER PYTHON [PYTHON ...]      e.g.  scripts/make-wheels.sh dist python3.10 python3.12
# The compilers are g++ and Debian's cross compiler (apt install g++-aarch64-linux-gnu). libstdc++ goes into the extension
# (what nothing calls is dropped, with its needs), so that the C library alone decides where a wheel runs: built on Debian 12,
# on glibc 2.34 and newer, which JetPack 6 has; auditwheel checks that. Python's headers are those of the Python at hand: on
# 64-bit Linux they say the same on both processors. WHEEL_ARCHS="x86_64 aarch64" chooses, PIP_FLAGS are handed to pip.
# What is missing is told in one line.
set -eu
out=$1
shift
glibc=34
work=$PWD/build/wheels

fail() {
    echo "make: $*" >&2
    exit 1
}

mkdir -p "$out" "$work"
out=$(cd "$out" && pwd)
for python in "$@"; do
    command -v "$python" >/dev/null 2>&1 || fail "$python is not there; name others: make wheels PYTHONS=\"python3.12\""
    version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
    venv=$work/venv-$version
    if [ ! -e "$venv/.made" ]; then
        "$python" -m venv "$venv"
        # shellcheck disable=SC2086  # words
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_FLAGS:-} \
            "setuptools>=77" "pybind11>=2.13" auditwheel || fail "pip could not install what builds wheels"
        touch "$venv/.made"
    fi
    for arch in ${WHEEL_ARCHS:-x86_64 aarch64}; do
        cxx=$arch-linux-gnu-g++
        command -v "$cxx" >/dev/null 2>&1 || fail "$cxx is not there; install it (Debian, Ubuntu: apt install g++-$(echo "$arch" | tr _ -)-linux-gnu)"
        build=$work/cp$version-$arch
        rm -rf "$build"
        mkdir -p "$build/out"
        printf '[build]\nbuild_base = %s\n[bdist_wheel]\nplat_name = manylinux_2_%s_%s\n' "$build" "$glibc" "$arch" >"$build/config"
        echo "Python $version on $arch"
        env CC="$cxx" CXX="$cxx" LDSHARED="$cxx -shared" LDCXXSHARED="$cxx -shared" \
            LDFLAGS="-static-libstdc++ -Wl,--gc-sections -Wl,--exclude-libs,ALL -s" ARCHFLAGS="" \
            DIST_EXTRA_CONFIG="$build/config" _PYTHON_HOST_PLATFORM="linux-$arch" \
            SETUPTOOLS_EXT_SUFFIX=".cpython-$version-$arch-linux-gnu.so" \
            "$venv/bin/python" -W ignore -c \
            'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])' "$build/out" \
            >"$build/log" 2>&1 || fail "the wheel of Python $version for $arch could not be built; see $build/log"
        "$venv/bin/python" -m auditwheel show "$build"/out/*.whl >"$build/audit" 2>&1 || fail "auditwheel: see $build/audit"
        needed=$(tr '\n' ' ' <"$build/audit" | sed -n 's/.*platform tag: *"manylinux_2_\([0-9]*\)_.*/\1/p')
        [ "${needed:-99}" -le "$glibc" ] || fail "the wheel needs a newer system than glibc 2.$glibc; see $build/audit"
        mv "$build"/out/*.whl "$out"
    done
done
