#!/bin/sh
# The head of a Ray cluster, which measures nothing; the controller (harness sweep --cluster ray:IP:PORT) runs beside it.
#   start-head.sh [IP] [PORT]
# IP: this machine's address on the network that the nodes share; Ray then listens on all its interfaces, and what keeps
# strangers out is the token, and your firewall. Without it, nothing listens beyond loopback and no node can join.
# HARNESS_VENV: where harness[ray] is installed [/opt/harness]. Stays in the foreground; Ctrl-C or SIGTERM ends it.
set -eu
umask 077
ip=${1:-127.0.0.1}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[ -s "$token" ] || [ -n "${RAY_AUTH_TOKEN:-}" ] || {
    echo "start-head.sh: no token in $token; make one: umask 077; mkdir -p ~/.ray; openssl rand -hex 32 > $token" >&2
    exit 2
}
# With it Ray leaves 127.0.0.1 as it is, instead of putting the machine's address in its place.
[ "$ip" != 127.0.0.1 ] || export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
export RAY_AUTH_MODE=token
exec "${HARNESS_VENV:-/opt/harness}/bin/ray" start --head --block --node-ip-address="$ip" --port="${2:-6379}" \
    --num-cpus=0 --num-gpus=0 --object-store-memory=200000000 \
    --include-dashboard=false --include-log-monitor=false --disable-usage-stats
