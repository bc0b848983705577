"""Whether a driver and a Ray can speak TLS is one sentence at once. gRPC's own servers, no Ray."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayworks.cluster import tls
from rayworks.errors import ClusterError
from tests.certificates import Authority

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sets the environment of the process, which begins without TLS."""
    for name in (tls.SWITCH, tls.CERTIFICATE, tls.KEY, tls.AUTHORITY):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def use(process: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        process.setenv(name, value)


@pytest.fixture
def servers(authority: Authority) -> Iterator[dict[str, int]]:
    """The ports of a gRPC server, as Ray starts it: with TLS, and without."""
    import grpc

    files = authority.environment("ray", [HOST])
    names = ("RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT", "RAY_TLS_CA_CERT")
    key, certificate, ca = (Path(files[name]).read_bytes() for name in names)
    credentials = grpc.ssl_server_credentials([(key, certificate)], root_certificates=ca, require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(1))
    ports = {
        "tls": server.add_secure_port(f"{HOST}:0", credentials),
        "plain": server.add_insecure_port(f"{HOST}:0"),
    }
    server.start()
    yield ports
    server.stop(None)


def shake_hands(port: int) -> None:
    tls.check_handshake(HOST, port, where="ray://head", timeout=5)


def test_a_driver_and_a_ray_of_one_authority_fit(
    servers: dict[str, int], authority: Authority, process: pytest.MonkeyPatch
):
    use(process, authority.environment("driver"))
    shake_hands(servers["tls"])


def test_a_driver_and_a_ray_without_tls_fit(servers: dict[str, int], process: pytest.MonkeyPatch):
    shake_hands(servers["plain"])


def test_a_ray_that_wants_tls_is_told_with_the_variables_to_set(servers: dict[str, int], process: pytest.MonkeyPatch):
    with pytest.raises(ClusterError, match="Ray wants TLS: ray://head") as error:
        shake_hands(servers["tls"])
    for name in (tls.SWITCH, tls.CERTIFICATE, tls.KEY, tls.AUTHORITY):
        assert name in str(error.value)


def test_a_ray_without_tls_is_told_to_a_driver_that_uses_it(
    servers: dict[str, int], authority: Authority, process: pytest.MonkeyPatch
):
    use(process, authority.environment("driver"))
    with pytest.raises(ClusterError, match="Ray uses no TLS, but this process does: ray://head"):
        shake_hands(servers["plain"])


def test_a_ray_of_another_authority_is_refused(servers: dict[str, int], tmp_path: Path, process: pytest.MonkeyPatch):
    use(process, Authority(tmp_path / "other").environment("driver"))
    with pytest.raises(ClusterError, match="do not accept each other's certificates: ray://head"):
        shake_hands(servers["tls"])


def test_a_driver_of_another_authority_is_refused_by_ray(
    servers: dict[str, int], authority: Authority, tmp_path: Path, process: pytest.MonkeyPatch
):
    """It trusts Ray's authority and its own, so that only Ray refuses."""
    environment = Authority(tmp_path / "other").environment("driver")
    both = tmp_path / "both.crt"
    both.write_text("".join((folder / "ca.crt").read_text() for folder in (authority.folder, tmp_path / "other")))
    use(process, environment | {"RAY_TLS_CA_CERT": str(both)})
    with pytest.raises(ClusterError, match=r"Ray refuses the certificate .*driver\.crt"):
        shake_hands(servers["tls"])


def test_a_ray_whose_certificate_names_other_hosts_is_refused(
    servers: dict[str, int], authority: Authority, process: pytest.MonkeyPatch
):
    use(process, authority.environment("driver"))
    with pytest.raises(ClusterError, match=r"Hostname mismatch.*names localhost"):
        tls.check_handshake("localhost", servers["tls"], where="ray://head", timeout=5)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"RAY_USE_TLS": "0"}, "RAY_USE_TLS is not set here"),
        ({"RAY_TLS_SERVER_KEY": "/absent.key"}, "RAY_TLS_SERVER_KEY is /absent.key, which is no file here"),
    ],
)
def test_what_a_driver_lacks_for_tls_is_named(
    authority: Authority, process: pytest.MonkeyPatch, change: dict[str, str], detail: str
):
    use(process, authority.environment("driver") | change)
    with pytest.raises(ClusterError) as error:
        tls.check_own_certificate("cluster.yaml", ip=None)
    assert str(error.value).startswith(f"Ray wants TLS: cluster.yaml ({detail}). Set RAY_USE_TLS to 1")


def test_a_driver_that_is_a_node_needs_a_certificate_that_names_its_address(
    authority: Authority, process: pytest.MonkeyPatch
):
    use(process, authority.environment("driver", ["10.0.0.7"]))
    tls.check_own_certificate("cluster.yaml", ip="10.0.0.7")
    tls.check_own_certificate("cluster.yaml", ip=None)
    with pytest.raises(ClusterError, match=r"not valid: .*driver\.crt \(IP address mismatch.*address 10\.0\.0\.8"):
        tls.check_own_certificate("cluster.yaml", ip="10.0.0.8")


def test_a_certificate_with_another_key_is_not_valid(authority: Authority, process: pytest.MonkeyPatch):
    key = authority.environment("other")["RAY_TLS_SERVER_KEY"]
    use(process, authority.environment("driver") | {"RAY_TLS_SERVER_KEY": key})
    with pytest.raises(ClusterError, match=r"The certificate of this process is not valid: .*(?i:mismatch)"):
        tls.check_own_certificate("cluster.yaml", ip=None)
