"""Where a Ray head listens."""


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return host and port of ``host:port`` or ``ray://host:port``; None for ``auto``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None
