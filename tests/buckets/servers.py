"""S3 and GCS on this machine: moto's server and gcp-storage-emulator, behind a proxy that counts and fails.

    with serving("s3") as bucket: bucket.url("a.zarr"), bucket.environment, bucket.proxy.requests

Real servers, and the real clients: s3fs over botocore, gcsfs over aiohttp. What they do not have is a network, and
the credentials of a cloud.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

BUCKET = "goldens"
KINDS = {"s3": "s3", "gcs": "gs"}
# What a request suffers: an HTTP status in place of an answer, seconds of delay, or the connection cut half way.
CUT = "cut"
# Connections that may wait to be taken. By default five may: the sixth is tried again a second later.
WAITING = 128
Fault = int | float | str | None


class Request(NamedTuple):
    """One request as the proxy saw it. `sent` and `received`: the bytes of its two bodies."""

    method: str
    path: str
    sent: int
    received: int
    at_once: int


@dataclass
class Proxy:
    """Counts what passes. `fault` is asked of every request, by its method, its path and its number."""

    target: tuple[str, int]
    requests: list[Request] = field(default_factory=list)
    fault: Callable[[str, str, int], Fault] = lambda method, path, number: None
    busy: int = 0
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        self.requests.clear()
        self.number = 0
        self.fault = lambda method, path, number: None

    def received(self) -> int:
        return sum(one.received for one in self.requests)

    def most_at_once(self) -> int:
        return max((one.at_once for one in self.requests), default=0)


class Handler(BaseHTTPRequestHandler):
    """Hands one request on and its answer back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def handle_one(self) -> None:
        proxy = self.proxy
        body = self._body()
        with proxy.lock:
            proxy.busy += 1
            proxy.number += 1
            at_once, number = proxy.busy, proxy.number
        received = 0
        try:
            fault = proxy.fault(self.command, self.path, number)
            if isinstance(fault, float):
                time.sleep(fault)
            if isinstance(fault, int):
                self._answer(fault, [], _complaint(fault, "storage/v1" in self.path))
                return
            connection = http.client.HTTPConnection(*proxy.target)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            received = len(data)
            self._answer(answer.status, answer.getheaders(), data, cut=fault == CUT)
        except OSError:  # the client has gone away
            self.close_connection = True
        finally:
            with proxy.lock:
                proxy.busy -= 1
                proxy.requests.append(Request(self.command, self.path, len(body), received, at_once))

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        length = len(data)
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = int(value)
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_one  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing: a test reads `requests`."""


def _complaint(status: int, json: bool) -> bytes:
    """What S3 or GCS writes to a status."""
    code = {401: "InvalidAccessKeyId", 403: "AccessDenied", 500: "InternalError"}.get(status, "SlowDown")
    if json:
        return f'{{"error": {{"code": {status}, "message": "{code}"}}}}'.encode()
    return f"<Error><Code>{code}</Code><Message>so says the proxy</Message></Error>".encode()


@dataclass
class Bucket:
    """A bucket behind a proxy. `environment` is what a user would export to reach it."""

    kind: str
    proxy: Proxy
    endpoint: str
    environment: dict[str, str]

    def url(self, name: str, bucket: str = BUCKET) -> str:
        return f"{KINDS[self.kind]}://{bucket}/{name}"


@contextmanager
def proxied(kind: str, target: tuple[str, int]) -> Iterator[Bucket]:
    """A proxy before a server, on a free port."""
    proxy = Proxy(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneProxy", (Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    server.socket.listen(WAITING)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Bucket(kind, proxy, endpoint, environment(kind, endpoint))
    finally:
        server.shutdown()
        server.server_close()


def environment(kind: str, endpoint: str) -> dict[str, str]:
    """What a user exports for a server of their own."""
    if kind == "gcs":
        return {"STORAGE_EMULATOR_HOST": endpoint}
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def serving(kind: str) -> Iterator[Bucket]:
    """A server with one empty bucket, `BUCKET`, and a proxy before it."""
    with _s3() if kind == "s3" else _gcs() as target, proxied(kind, target) as bucket:
        connection = http.client.HTTPConnection(*target)
        if kind == "s3":
            connection.request("PUT", f"/{BUCKET}")
        else:
            body = f'{{"name": "{BUCKET}"}}'
            connection.request("POST", "/storage/v1/b?project=p", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()
        yield bucket


@contextmanager
def _s3() -> Iterator[tuple[str, int]]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


@contextmanager
def _gcs() -> Iterator[tuple[str, int]]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    server._api._httpd.socket.listen(WAITING)
    try:
        yield server._api._httpd.server_address[:2]
    finally:
        server.stop()
