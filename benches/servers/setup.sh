#!/bin/sh
# Installs the peers: Debian's packages (as root, or by sudo) and npm's. Their services are not started.
set -e
cd "$(dirname "$0")"
SUDO=$([ "$(id -u)" = 0 ] || echo sudo)
set -- nginx-light libnginx-mod-nchan nats-server mosquitto util-linux
# Debian's npm does not work with a Node from elsewhere.
command -v npm > /dev/null || set -- "$@" nodejs npm
$SUDO apt-get update -qq
$SUDO env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@"
(cd js && npm ci --no-audit --no-fund)
