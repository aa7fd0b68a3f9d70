import socket

from hydra_ray.engine.listener import connection_error


def test_a_port_that_accepts_connections_has_no_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert connection_error("127.0.0.1", server.getsockname()[1]) is None


def test_a_closed_port_refuses():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(connection_error("127.0.0.1", port), ConnectionRefusedError)


def test_a_name_that_cannot_be_a_host_is_an_unknown_host():
    assert isinstance(connection_error("a..b", 80), socket.gaierror)
