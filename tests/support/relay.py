"""A way to the SuperLink of a hospital's own, so that a capture shows this hospital and nobody else."""

import contextlib
import socket
import threading


class Relay:
    """Takes connections on a free loopback port and hands every byte on, both ways.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # waking the thread that waits in accept
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        with caller:
            try:
                called = socket.create_connection(self._target)
            except OSError:
                return
            with called:
                back = threading.Thread(target=self._hand_on, args=(called, caller), daemon=True)
                back.start()
                self._hand_on(caller, called)
                back.join()

    @staticmethod
    def _hand_on(source: socket.socket, sink: socket.socket) -> None:
        try:
            while content := source.recv(1 << 16):
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # whichever end went, the other is told
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
