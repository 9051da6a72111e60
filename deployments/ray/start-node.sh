#!/bin/sh
# A measuring node of a Ray cluster.
#   start-node.sh HEAD:PORT [KIND]
# KIND: of simulated sweeps only, the kind of node that it simulates, such as dgx-h100.
# The token of the head lies in ~/.ray/auth_token (mode 0600), or where RAY_AUTH_TOKEN_PATH says.
# HARNESS_VENV: where the same versions of harness[ray], Python and Ray are installed as on the head [/opt/harness].
set -eu
umask 077
[ $# -ge 1 ] || { echo "usage: start-node.sh HEAD:PORT [KIND]" >&2; exit 2; }
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[ -s "$token" ] || [ -n "${RAY_AUTH_TOKEN:-}" ] || {
    echo "start-node.sh: no token in $token; copy the head's, with mode 0600" >&2
    exit 2
}
export RAY_AUTH_MODE=token
exec "${HARNESS_VENV:-/opt/harness}/bin/ray" start --block --address="$1" --resources='{"harness-node": 1}' \
    ${2:+--labels="harness-kind=$2"} --object-store-memory=200000000 --include-log-monitor=false --disable-usage-stats
