#!/usr/bin/env bash
# The benchmark's report in headless Chromium: installs Debian's chromium and chromedriver and selenium where they are
# missing, then runs tests/bench/test_browser.py, of which nothing may be skipped. Needs root where apt has to install,
# and wxkernels with its `test` extra.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    apt=(apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=15)
    if ! { "${apt[@]}" update && DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends \
        chromium chromium-driver; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        echo "ci/browser.sh: apt-get could not install chromium and chromium-driver; it needs root and its registry" >&2
        exit 1
    fi
fi
python -m pip install -q -c constraints.txt selenium

python -m pytest -rs tests/bench/test_browser.py | tee "$log"
if grep -q skipped "$log"; then
    echo "ci/browser.sh: tests were skipped, here none may be" >&2
    exit 1
fi
