#!/usr/bin/env bash
# Lint, format and types, as CI checks them. Needs the `dev` extra.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
git ls-files '*.cpp' '*.h' '*.cu' | xargs clang-format --dry-run --Werror
mypy
