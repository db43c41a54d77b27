"""Run moto so that writing requests take their turn: `python moto_in_turn.py HOST PORT`.

moto looks whether a key is there and stores the object in two steps with nothing between them, so
of two clients that create one key at the same time both may be told that they won. S3 promises that
one does, and our leases rest on it. Runs in moto's own virtual environment.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (  # type: ignore[import-not-found]
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple  # type: ignore[import-not-found]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def in_turn(application: Application) -> Application:
    """Let only one request at a time change what moto holds; reading ones go by."""
    turn = threading.Lock()

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        with turn:
            return application(environ, start_response)

    return answer


if __name__ == "__main__":
    run_simple(
        sys.argv[1],
        int(sys.argv[2]),
        in_turn(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
