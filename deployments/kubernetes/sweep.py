"""Sweep every minute, each time as a flow run of this process: ``python -m deployments.kubernetes.sweep``.

Not as a scheduled deployment: a pod that starts, imports Prefect and ends costs about 12 s of CPU time, every minute.
"""

import faulthandler
import logging
import time

from flows.sweep import sweep

EVERY_SECONDS = 60
LONGEST_SECONDS = 900
"""A sweep that takes longer hangs: the process ends with a traceback, and Kubernetes starts it again."""

logger = logging.getLogger("rayworks.sweep")


def main() -> None:
    """Sweep until this process is ended. A sweep that fails, as when a server is away, is repeated after a minute."""
    while True:
        faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
        try:
            sweep()
        except Exception:
            logger.exception("The sweep failed. The next one begins in %d s.", EVERY_SECONDS)
        finally:
            faulthandler.cancel_dump_traceback_later()
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
