import socket
import sys
from pathlib import Path

import pytest

from rayworks import free_port
from rayworks.errors import RayworksError


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which ports it gives away")
def test_a_port_for_later_is_none_that_the_system_gives_away_meanwhile():
    first_given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port.FIRST <= free_port.free_port() <= free_port.LAST < first_given_away


def test_a_port_where_somebody_listens_is_not_free(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(free_port, "FIRST", port)
        monkeypatch.setattr(free_port, "LAST", port)
        with pytest.raises(RayworksError, match=f"No free port was found: ports {port} to {port}"):
            free_port.free_port()
    assert free_port.free_port() == port
