"""The ``rayworks`` command. Flows are commands of their own: ``flows/``."""

import argparse
import sys


def main() -> None:
    """Run the command, and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="rayworks", description="Prefect flows that take data to a served model, on Ray."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="check an installation, from this machine and from a Ray worker")
    doctor.add_argument("--no-worker", action="store_true", help="do not start Ray: check only from this machine")
    arguments = parser.parse_args()
    sys.exit(_doctor(worker=not arguments.no_worker))


def _doctor(*, worker: bool) -> int:
    """Print the result of each check; return 1 if one failed, else 0."""
    from rich.console import Console
    from rich.markup import escape

    from rayworks import doctor
    from rayworks.prefect_api import server
    from rayworks.settings import Settings

    console = Console(highlight=False, soft_wrap=True)
    if embedded := server.start():
        embedded.wait()
    marks = {"pass": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
    failures = 0
    for line in doctor.examine(Settings(), worker=worker):
        failures += line.level == "fail"
        console.print(f"{marks[line.level]} [bold]{line.check}[/]  {escape(line.detail)}")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
