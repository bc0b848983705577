"""Prefect's command ``prefect server``, as a process that does not stand still on SQLite.

    python -m rayworks.prefect_api.lasting_server start --port 4200

It takes the arguments of ``prefect server``; see :func:`_private.close_failed_statements`.
"""

import sys

from rayworks.prefect_api import _private

if __name__ == "__main__":
    _private.close_failed_statements()
    from prefect.cli import app

    sys.argv[1:1] = ["server"]
    app()
