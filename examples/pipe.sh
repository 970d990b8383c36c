#!/bin/sh
# Publishes a command's output as events, one for each line, live:
#
#   examples/pipe.sh build.log make -j8
#   fanwire tail --type build.log            # elsewhere
#   fanwire tail --json --type build.log | grep error
#
# The first word is the events' type. FANWIRE_URL and FANWIRE_TOKEN name the server and the credentials. Ends
# with the command.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 TYPE COMMAND [ARGUMENT...]" >&2; exit 2; }
type=$1
shift
run=$(hostname)-$$

# Text in JSON has no control characters, and its quotes and backslashes are escaped.
"$@" 2>&1 | LC_ALL=C tr -d '\000-\010\013-\037' | sed -u -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' \
  -e "s/^/{\"type\":\"$type\",\"source\":\"pipe\",\"correlation_id\":\"$run\",\"payload\":{\"line\":\"/" -e 's/$/"}}/' |
  fanwire publish -
