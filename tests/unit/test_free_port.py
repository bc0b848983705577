"""Free ports for programs that open them later."""

import socket
import sys
from pathlib import Path

import pytest

from rayworks import free_port
from rayworks.errors import RayworksError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux publishes its ephemeral port range")
def test_a_free_port_is_outside_the_ephemeral_range_of_the_system():
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port.FIRST <= free_port.free_port() <= free_port.LAST < first_ephemeral


def test_a_port_in_use_is_not_returned(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(free_port, "FIRST", port)
        monkeypatch.setattr(free_port, "LAST", port)
        with pytest.raises(RayworksError, match=f"No free port was found: ports {port} to {port}"):
            free_port.free_port()
    assert free_port.free_port() == port
