"""As much of a Kubernetes API server as Helm asks when it looks for the chart's Secret."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar


class _Answers(BaseHTTPRequestHandler):
    secret: ClassVar[Mapping[str, str]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        documents = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {
                "kind": "APIResourceList",
                "groupVersion": "v1",
                "resources": [{"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"]}],
            },
            "/api/v1/namespaces/antiphon/secrets/antiphon": {
                "kind": "Secret",
                "apiVersion": "v1",
                "metadata": {"name": "antiphon", "namespace": "antiphon"},
                "data": self.secret,
            },
        }
        body = json.dumps(documents.get(path, {"kind": "Status", "apiVersion": "v1", "code": 404})).encode()
        self.send_response(200 if path in documents else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def api_server(secret: Mapping[str, str]) -> Iterator[str]:
    """The address of an API server that has this Secret."""
    handler = type("Answers", (_Answers,), {"secret": secret})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
