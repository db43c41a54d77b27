#!/bin/sh
# Make .venv and install the project into it, editable. Called by the Makefile; needs only Python.
#
#   tools/bootstrap.sh run    what the commands need
#   tools/bootstrap.sh dev    the test tools too, and a C compiler and PostgreSQL 15 where they can be had
#
# PYTHON names the interpreter; without it the first of python3.13, 3.12, 3.11 and python3 that is
# at least 3.11 is taken. Missing system packages are installed when the caller is root and there is
# an apt-get; otherwise the script goes on without them, or ends with the line to run.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
what=${1:?"usage: tools/bootstrap.sh run|dev"}

say() { echo "bootstrap: $*" >&2; }
stop() { say "$*"; exit 3; }

find_python() {
    # Each candidate is started, not only looked up: a version manager's shim may lead nowhere.
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing $*"
    # A stale list of one unrelated repository must not stop us: the install itself decides.
    apt-get update -qq >/dev/null || true
    # Without --no-upgrade a header package may pull a newer database server onto the machine.
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-upgrade --no-install-recommends \
        "$@" >/dev/null
}

can_compile() {
    "$1" - <<'PYTHON_CODE'
import os, shutil, sys, sysconfig
compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (shutil.which(compiler) and os.path.exists(header)))
PYTHON_CODE
}

python=$(find_python) || stop "no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# A .venv whose interpreter is gone, or whose making was interrupted, is made anew.
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        can_install || stop "$python has no venv module; run: sudo apt-get install python$version-venv"
        apt_install "python$version-venv" || stop "cannot install python$version-venv"
    fi
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

if [ "$what" = dev ] && ! can_compile "$venv/bin/python" && can_install; then
    apt_install gcc libc6-dev "python$version-dev" || say "no C compiler to be had: going on without"
fi

# Without it the tests take a PostgreSQL 15 from pip, as they do for the other versions.
if [ "$what" = dev ] && [ ! -x /usr/lib/postgresql/15/bin/postgres ] && can_install; then
    # Debian's package starts a server of its own unless it is told not to before it is there.
    if [ ! -e /etc/postgresql-common ]; then
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    apt_install postgresql-15 || say "no PostgreSQL 15 to be had from apt-get: going on without"
fi

project=.
[ "$what" = run ] || project=".[dev]"
say "installing the project and what it needs into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$project"
"$venv/bin/python" -c 'import pitr._speedups' 2>/dev/null ||
    say "C speedups not built: their plain-Python twins do the work"

touch "$venv/run-ready"
[ "$what" = run ] || touch "$venv/dev-ready"
