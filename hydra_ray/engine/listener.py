"""Check of a TCP port, made before clients that would retry for minutes."""

import socket


def connection_error(host: str, port: int, timeout_seconds: float = 10.0) -> OSError | None:
    """Return why no TCP connection to a port can be opened; None where one was opened, and closed again."""
    try:
        socket.create_connection((host, port), timeout=timeout_seconds).close()
    except UnicodeError:  # the name cannot be encoded for DNS, such as one with an empty label
        return socket.gaierror(socket.EAI_NONAME, "not a valid host name")
    except OSError as error:
        return error
    return None
