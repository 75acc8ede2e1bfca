"""A process that stands in for a server: answers on a port, says when it is ready, ends as it is told.

`python -m tests.targets.standin PORT [--unready REASON] [--deaf] [--dies] [--child] [--order FILE]`
"""

import argparse
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("port", type=int)
    options.add_argument("--unready", default="")
    options.add_argument("--deaf", action="store_true", help="does not hear SIGTERM")
    options.add_argument("--dies", action="store_true", help="ends at once, with a last word")
    options.add_argument("--child", action="store_true", help="leaves a child behind, as epmd does")
    options.add_argument("--order", default=os.devnull, help="a file that gets a line at start and at end")
    chosen = options.parse_args()
    if chosen.dies:
        sys.exit("no licence found")
    name = os.environ["LAB_MARK"].partition(":")[2]

    def note(what: str) -> None:
        with Path(chosen.order).open("a") as file:
            file.write(f"{what} {name}\n")

    def end(*_: object) -> None:
        note("end")
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if chosen.deaf else end)
    if chosen.child:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if chosen.unready else 200)
            self.end_headers()
            self.wfile.write(f'{{"reason": "{chosen.unready}"}}'.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler)
    note("start")
    print("serving", os.environ.get("COLOUR", ""), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
