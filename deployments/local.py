"""Serve every deployment of ``prefect.yaml`` from one process on a laptop: ``uv run deployments/local.py``.

Requires a Prefect server (``uv run prefect server start``) and ``PREFECT_API_URL``. Start the runs in its UI.
"""

from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow, serve

ROOT = Path(__file__).resolve().parent.parent


def deployments() -> list[Any]:
    """Create the deployments that ``prefect.yaml`` lists, for this process to serve."""
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return [
        cast(Flow[..., Any], Flow.from_source(str(ROOT), entrypoint=entry["entrypoint"])).to_deployment(
            entry["name"],
            description=entry["description"],
            concurrency_limit=(entry.get("concurrency_limit") or {}).get("limit"),
        )
        for entry in entries
    ]


if __name__ == "__main__":
    serve(*deployments())
