"""Prints each notification that Alertmanager sends, with the credential it came with: one line of JSON."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


class Receiver(BaseHTTPRequestHandler):
    """Answers every POST with 200."""

    def do_POST(self) -> None:
        """Print what came."""
        notification = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(json.dumps({"authorization": self.headers["Authorization"], **notification}))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing else."""


if __name__ == "__main__":
    HTTPServer(("", 9095), Receiver).serve_forever()
