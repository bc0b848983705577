"""Serve every deployment of ``prefect.yaml`` from this process, for a laptop: ``uv run deployments/local.py``.

Needs a server (``uv run prefect server start``, and ``PREFECT_API_URL``). Runs are started in its UI.
"""

from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow, serve

ROOT = Path(__file__).resolve().parent.parent


def deployments() -> list[Any]:
    """What ``prefect.yaml`` lists, to be run by this process."""
    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return [
        cast(Flow[..., Any], Flow.from_source(str(ROOT), entrypoint=one["entrypoint"])).to_deployment(
            one["name"],
            description=one["description"],
            concurrency_limit=(one.get("concurrency_limit") or {}).get("limit"),
        )
        for one in listed
    ]


if __name__ == "__main__":
    serve(*deployments())
