#!/bin/sh
# What the peers are made of: Debian's packages (as root, or by sudo) and npm's. Their services are not started.
set -e
cd "$(dirname "$0")"
SUDO=$([ "$(id -u)" = 0 ] || echo sudo)
$SUDO apt-get update -qq
$SUDO env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
    nginx-light libnginx-mod-nchan nats-server mosquitto nodejs npm util-linux
(cd js && npm ci --no-audit --no-fund)
