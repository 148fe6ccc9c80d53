"""A server on localhost for the tests of the browser package: files by ranges, and the failures that tests ask for."""

import http.server
import json
import os
import random
import threading
import time
from urllib.parse import parse_qs, unquote, urlsplit

TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html", ".css": "text/css",
         ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml"}


class Server:
    """Serves FOLDERS (URL prefix: folder) and BLOBS (name: bytes) below /blob/. A blob's query asks for failures:

    breaks=N  the first N responses end at a random point     slow=N     bytes a second
    linked=X  the header X-Linked-ETag                        noranges=1 ranges are ignored
    status=N  that status                                     claimed=N  the size that the server claims
    """

    def __init__(self, folders, blobs):
        self.folders, self.blobs = folders, blobs
        # Bytes sent and requests for each blob's path with its query, and breaks done.
        self.sent, self.requests, self.broken = {}, {}, {}
        # Answers of the hub's API: path to JSON. Paths that are blobs. ETags of blobs, if not "1".
        self.hub, self.links, self.etags = {}, {}, {}
        # Whether connections for blobs are refused.
        self.down = False
        # Is told the bodies of POST requests. Headers of all responses.
        self.said, self.headers = print, []
        self.lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def do_POST(self):
                server.said(self.rfile.read(int(self.headers["Content-Length"])).decode())
                server.send(self, 200, b"", "text/plain")

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler):
        url = urlsplit(handler.path)
        path = unquote(url.path)
        if path in self.hub:
            return self.send(handler, 200, json.dumps(self.hub[path]).encode(), "application/json")
        if path in self.links:
            return self.blob(handler, self.links[path], {})
        if path.startswith("/blob/"):
            return self.blob(handler, path[6:], {key: value[-1] for key, value in parse_qs(url.query).items()})
        for prefix, folder in self.folders.items():
            if path.startswith(prefix):
                name = os.path.join(folder, path[len(prefix):] or "index.html")
                if os.path.isdir(name):
                    name = os.path.join(name, "index.html")
                if ".." not in path and os.path.isfile(name):
                    with open(name, "rb") as file:
                        kind = TYPES.get(os.path.splitext(name)[1], "application/octet-stream")
                        return self.send(handler, 200, file.read(), kind)
        return self.send(handler, 404, b"not found", "text/plain")

    def send(self, handler, status, body, kind, headers=()):
        handler.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", len(body)), *headers, *self.headers]:
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)

    def blob(self, handler, name, query):
        data = self.blobs.get(name)
        if self.down:
            handler.close_connection = True
            return handler.connection.shutdown(2)
        if data is None or "status" in query:
            return self.send(handler, int(query.get("status", 404)), b"no", "text/plain")
        key = handler.path
        begin, end = 0, len(data)
        span = handler.headers.get("Range")
        ranged = span and "noranges" not in query
        if ranged:
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(len(data), int(last) + 1) if last else len(data)
        headers = [("ETag", f'"{self.etags.get(name, "1")}"'), ("Accept-Ranges", "bytes")]
        if ranged:
            headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{query.get('claimed', len(data))}"))
        if "linked" in query:
            headers.append(("X-Linked-ETag", f'"{query["linked"]}"'))
        stop = end
        with self.lock:
            self.requests[key] = self.requests.get(key, 0) + 1
            if end - begin > 1 and self.broken.get(key, 0) < int(query.get("breaks", 0)):
                self.broken[key] = self.broken.get(key, 0) + 1
                # In the first quarter: enough is left for as many breaks.
                stop = begin + random.randrange(end - begin) // 4
        handler.send_response(206 if ranged else 200)
        for header, value in [("Content-Type", "application/octet-stream"), ("Content-Length", end - begin), *headers, *self.headers]:
            handler.send_header(header, str(value))
        handler.end_headers()
        rate = int(query.get("slow", 0))
        piece = max(1, rate // 20) if rate else 1 << 18
        at = begin
        while at < stop:
            part = data[at:min(stop, at + piece)]
            handler.wfile.write(part)
            at += len(part)
            with self.lock:
                self.sent[key] = self.sent.get(key, 0) + len(part)
            if rate:
                time.sleep(0.05)
        if stop < end:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)

    def bytes_sent(self, name):
        """Returns the bytes that were sent of the blobs whose path begins with NAME."""
        with self.lock:
            return sum(count for key, count in self.sent.items() if key.startswith(f"/blob/{name}"))
