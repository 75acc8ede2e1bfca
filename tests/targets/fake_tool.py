"""Stands in for docker, kind, helm or kubectl: notes how it was called, and answers as a test has told.

`python fake_tool.py NAME WORDS...`, with a folder in FAKE_DIR: `answers.json` is a list of (pattern of the whole
command, exit code, stdout, stderr), of which the first that matches counts; `api.json` is what the cluster answers by
path, (status, body), through `kubectl proxy`; a port that is forwarded answers its service's name; `clusters` are
kind's; `calls` gets a line for each call. What is not known succeeds and says nothing.
"""

import json
import os
import re
import sys

FOLDER = os.environ["FAKE_DIR"]


def read(name: str) -> str:
    with open(f"{FOLDER}/{name}") as file:  # noqa: PTH123  (pathlib takes long to import)
        return file.read()


def write(name: str, text: str, mode: str = "w") -> None:
    with open(os.path.join(FOLDER, name), mode) as file:  # noqa: PTH118, PTH123
        file.write(text)


def serve(socket: str) -> None:
    """The cluster's API, as of now."""
    from http.server import BaseHTTPRequestHandler
    from socketserver import UnixStreamServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, body = json.loads(read("api.json")).get(path, (404, {"kind": "Status", "message": "not found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def address_string(self) -> str:
            return "test"

        def log_message(self, *_: object) -> None:
            pass

    with UnixStreamServer(socket, Handler) as server:
        print("Starting to serve on", socket, flush=True)
        server.serve_forever()


def forward(service: str, port: int) -> None:
    """The service's port, which answers with its name."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(service.encode())

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    command = " ".join(sys.argv[1:])
    write("calls", command + "\n", "a")
    for pattern, code, out, err in json.loads(read("answers.json")):
        if re.search(pattern, command):
            sys.stdout.write(out)
            sys.stderr.write(err)
            sys.exit(code)
    if found := re.match(r"kubectl proxy --unix-socket=(\S+)", command):
        serve(found[1])
    elif found := re.match(r"kubectl port-forward service/(\S+) (\d+):\S+ ", command):
        forward(found[1], int(found[2]))
    elif found := re.search(r"docker build .*--iidfile (\S+)", command):
        write(found[1], "sha256:0123456789abcdef")
    elif command == "kind get clusters":
        sys.stdout.write(read("clusters"))
    elif found := re.match(r"kind (create|delete) cluster --name (\S+)", command):
        write("clusters", f"{found[2]}\n" if found[1] == "create" else "")


if __name__ == "__main__":
    main()
