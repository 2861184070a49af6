"""An OpenAI-compatible endpoint on this machine that does what a test tells it to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(behave):
    """(url, requests): `behave(number, body)` returns the reply's text, the response's whole body in bytes, a status
    code, or seconds to be silent for.

    `number` counts requests from 0; `requests` gathers (headers, body) of each.
    """
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(requests)
                requests.append((self.path, dict(self.headers), body))
            said = behave(number, body)
            if isinstance(said, float):
                time.sleep(said)
                said = "1"
            self.send_response(said if isinstance(said, int) else 200)
            self.end_headers()
            if isinstance(said, str):
                self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())
            if isinstance(said, bytes):
                self.wfile.write(said)

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except OSError:  # whoever asked has given up
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # else it ends half a second late
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
