#!/bin/sh
# Play the demo on a PostgreSQL server of its own. Called by the Makefile, with .venv in place.
#
# Where there is no PostgreSQL it is installed when the caller is root and there is an apt-get;
# else the demo says what to install.
set -eu
cd "$(dirname "$0")/.."

has_server() {
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin; do
        [ ! -x "$folder/initdb" ] || return 0
    done
    command -v initdb >/dev/null
}

if ! has_server && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "demo: installing postgresql" >&2
    # Debian's package starts a server of its own unless it is told not to before it is there.
    if [ ! -e /etc/postgresql-common ]; then
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -qq >/dev/null || true
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-upgrade --no-install-recommends \
        postgresql >/dev/null
fi
exec .venv/bin/pitr demo --postgres "$@"
