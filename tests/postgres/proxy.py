"""A proxy between a capture and its server: a cable that can be pulled."""

from __future__ import annotations

import contextlib
import socket
import threading

from tools.postgres_servers import Server


class Proxy:
    """Forward TCP connections on this machine to a server's socket, until cut."""

    def __init__(self, server: Server) -> None:
        """Listen at once. The server may change later: `target` is its socket's path."""
        self.target = self._path(server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self.is_open = True
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        self.cut()

    @property
    def url(self) -> str:
        """Where the server is to be found behind this proxy."""
        return f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}/postgres"

    def turn_to(self, server: Server) -> None:
        """Lead new connections to another server, as a failover does."""
        self.target = self._path(server)

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    @staticmethod
    def _path(server: Server) -> str:
        return str(server.folder / f".s.PGSQL.{server.port}")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            upstream = socket.socket(socket.AF_UNIX)
            try:
                if not self.is_open:
                    raise OSError("the cable is pulled")
                upstream.connect(self.target)
            except OSError:
                client.close()
                upstream.close()
                continue
            with self._lock:
                self._pairs.append((client, upstream))
            for one, other in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
