#!/bin/sh
# Registers what prefect.yaml says with the server and works on its runs, in this project's folder.
#   PREFECT_API_URL       the server; default: this machine's, at PREFECT_SERVER_API_PORT (4200)
#   LDEBM_REGISTER=no     only work: another machine registers the deployments
# Options go to `prefect worker start`: --limit 1, --name left, --work-queue gpu ...
set -eu
cd "$(dirname "$0")/.."
export PREFECT_API_URL="${PREFECT_API_URL:-http://127.0.0.1:${PREFECT_SERVER_API_PORT:-4200}/api}"
export DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 GX_ANALYTICS_ENABLED=false
export PREFECT_SERVER_ANALYTICS_ENABLED=false
no_proxy="${no_proxy:-${NO_PROXY:-}}" # a proxy is not the way to this machine itself
no_proxy="${no_proxy:+$no_proxy,}127.0.0.1,localhost,::1"
export no_proxy NO_PROXY="$no_proxy"
if [ "${LDEBM_REGISTER:-yes}" = yes ]; then
    prefect --no-prompt work-pool inspect ldebm >/dev/null 2>&1 ||
        prefect --no-prompt work-pool create ldebm --type process
    prefect --no-prompt deploy --all
fi
exec prefect worker start --pool ldebm --type process "$@"
