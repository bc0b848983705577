# Every command that a person types. `just` lists them.
_default:
    @just --list

# Data to a promoted model on the example flights, or on your own: just pipeline --uri FILE --target COLUMN
pipeline *arguments:
    uv run flows/pipeline.py {{arguments}}

# The tests that need no cluster, but for the slow ones
test *arguments:
    uv run pytest {{arguments}}

# Those that kill processes, and those of whole installations
slow:
    uv run pytest -m slow

# The pure tests: seconds
unit:
    uv run pytest tests/unit tests/architecture

# Style, spelling, types and import contracts
check:
    uv run ruff check .
    uv run ruff format --check .
    uv run typos
    uv run lint-imports
    uv run pyright

# A whole installation on this machine: Prefect, MLflow, a worker, every deployment
local:
    uv run deployments/local.py

# The quick tests on the newest Python on this machine
python:
    .ci/python

# What CI runs
ci:
    .ci/run

# What we claim about speed; see docs/benchmarks.md
benchmark name *arguments:
    uv run benchmarks/{{name}}.py {{arguments}}
