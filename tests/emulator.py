"""An emulator of the Google storage API on loopback: python tests/emulator.py PORT FOLDER

What the bucket ktjax-bucket holds lies in FOLDER/.cloudstorage/ktjax-bucket as files, where tests
look at it. The emulator (PyPI: gcp-storage-emulator) takes one connection at a time, ignores
conditions on generations, and does not say which one it gives: TensorStore, which Orbax writes
checkpoints with, needs all of that, so it is added here.
"""

import http.server
import sys
import threading
import time
from urllib import parse

from gcp_storage_emulator import server

BUCKET = "ktjax-bucket"
LOCK = threading.Lock()


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client has hung up."""


class Handler(server.RequestHandler):
    generation = None  # of the object that is given

    def handled(self, method):
        """One request at a time, if its conditions hold."""
        url = parse.urlsplit(self.path)
        query = dict(parse.parse_qsl(url.query))
        _, _, name = url.path.partition("/o/")
        name = parse.unquote(name) or query.get("name")
        with LOCK:
            found = self.storage.objects.get(BUCKET, {}).get(name, {"generation": "0"})[
                "generation"
            ]
            if query.get("ifGenerationMatch", found) != found:
                status = 412
            elif query.get("ifGenerationNotMatch") == found != "0":
                status = 304
            else:
                self.generation = found if method == "GET" else None
                getattr(super(), f"do_{method}")()
                return
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.handled("GET")

    def do_POST(self):
        self.handled("POST")

    def do_DELETE(self):
        self.handled("DELETE")

    def end_headers(self):
        if self.generation is not None:
            self.send_header("x-goog-generation", self.generation)
        super().end_headers()

    def log_message(self, *arguments):
        pass


def main(port, folder):
    server.server.HTTPServer = Server
    server.RequestHandler = Handler
    server.create_server("127.0.0.1", int(port), False, BUCKET, folder).start()
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
