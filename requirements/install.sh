#!/bin/sh
# Installs a lock and this package into a virtual environment: requirements/install.sh FOLDER cpu|gpu. `make install` runs it.
# PYTHON names the interpreter. TORCH_INDEX is the package index that is asked for PyTorch's CPU build where the machine's
# own pip finds none. Everything is checked by hash, and --no-deps keeps out what the locks leave out.
set -eu
venv=$1
lock=$2
here=$(dirname "$0")
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
export PIP_DISABLE_PIP_VERSION_CHECK=1

refuse() {
    echo "install: $*" >&2
    exit 1
}

version() {
    "$1" -c 'import sys; print(sys.implementation.name, "%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints why a Python cannot be used, nothing where it can. A command that exists need not run: pyenv's may name a version
# that is not chosen.
unfit() {
    found=$(version "$1") || {
        echo "$1 does not run"
        return
    }
    case $found in
    "cpython 3.11" | "cpython 3.12" | "cpython 3.13") ;;
    *) echo "$1 is $found" && return ;;
    esac
    "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "$1 lacks venv (on Debian and Ubuntu: apt install python${found#* }-venv)"
}

# Sets `python`: PYTHON where it is given, else 3.11, else the newest that there is; what the environment has if that fits.
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        why=$(unfit "$PYTHON")
        [ -z "$why" ] || refuse "PYTHON=$PYTHON cannot be used: $why. It must be CPython 3.11, 3.12 or 3.13 with venv."
        python=$PYTHON
        [ "$(version "$venv/bin/python")" != "$(version "$PYTHON")" ] || python=$venv/bin/python
        return
    fi
    reasons=
    newest=
    for python in "$venv/bin/python" python3.11 python3.13 python3.12 python3 python; do
        command -v "$python" >/dev/null || continue
        why=$(unfit "$python")
        if [ -n "$why" ]; then
            reasons="$reasons${reasons:+; }$why"
            continue
        fi
        case $python in "$venv/bin/python" | python3.11) return ;; esac
        found=$(version "$python")
        [ -n "$newest" ] && [ "${found##*.}" -le "${newest%% *}" ] || newest="${found##*.} $python"
    done
    python=${newest#* }
    [ -z "$newest" ] || return 0
    refuse "no CPython 3.11, 3.12 or 3.13 with venv was found${reasons:+ ($reasons)}. Install one (Debian and Ubuntu:" \
        "apt install python3.11-venv; Fedora: dnf install python3.11; anywhere: uv python install 3.11)," \
        "or name one: make PYTHON=/path/to/python3.11."
}

has_library() {
    "$python" -c "import ctypes; ctypes.CDLL('$1')" 2>/dev/null
}

has_headers() {
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null
}

# What pip cannot bring: vLLM compiles small functions when it first needs them, and its CPU build reads where memory is.
require_system() {
    missing='' debian='' fedora=''
    found=$(version "$python")
    command -v "${CXX:-g++}" >/dev/null || missing="$missing, a C++ compiler" debian="$debian g++" fedora="$fedora gcc-c++"
    has_headers || missing="$missing, Python's headers" debian="$debian python${found#* }-dev" fedora="$fedora python3-devel"
    [ "$lock" = gpu ] || has_library libnuma.so.1 ||
        missing="$missing, libnuma.so.1" debian="$debian libnuma1" fedora="$fedora numactl-libs"
    [ -z "$missing" ] || refuse "${missing#, } must be there first (Debian and Ubuntu: apt install$debian; Fedora: dnf install$fedora)."
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --no-deps --require-hashes "$@"
}

[ "$(uname -sm)" = "Linux x86_64" ] || refuse "the locks are for x86-64 Linux, and this is $(uname -sm)." \
    "To submit jobs and look at runs, the light client is enough: pip install ."
case $(cd "$here" && pwd)$venv in
*[[:space:]]*) refuse "the path of this folder has a space in it, and torch's compiler cannot work there. Move it." ;;
esac
[ -f "$here/$lock.txt" ] || refuse "there is no lock '$lock': it must be cpu or gpu."
for other in "$venv"/.installed-*; do
    [ ! -e "$other" ] || [ "$other" = "$venv/.installed-$lock" ] ||
        refuse "$venv has the lock ${other##*-}. Remove it, or install into another folder: make install LOCK=$lock VENV=FOLDER."
done
choose_python
require_system

[ "$python" = "$venv/bin/python" ] || "$python" -m venv --clear "$venv"
# An environment whose making was cut off may have none.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
if [ "$lock" = cpu ] && ! pip_install -r "$here/torch-cpu.txt" 2>/dev/null; then
    said=$(pip_install --index-url "$torch_index" -r "$here/torch-cpu.txt" 2>&1) || refuse \
        "PyTorch's CPU build ($(grep -o '^torch==[^ ]*' "$here/torch-cpu.txt")) is neither where this machine's pip looks nor in" \
        "$torch_index ($(printf '%s\n' "$said" | grep ERROR | tail -n 1)). Name a package index that has it with TORCH_INDEX=URL," \
        "or a folder with its wheel with PIP_FIND_LINKS=FOLDER. The torch of PyPI is for GPUs and is not taken."
fi
pip_install -r "$here/build.txt"
DS_BUILD_OPS=0 pip_install --no-build-isolation -r "$here/$lock.txt"
# setuptools warns of editable installations as such.
PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable "$here/.."
touch "$venv/.installed-$lock"
