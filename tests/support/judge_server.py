"""A local OpenAI-compatible endpoint whose replies the test decides."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(behave):
    """Yield (url, requests); `requests` collects (path, headers, body) of each request.

    `behave(number, body)` decides the reply to request `number`, counted from 0: a str is the message's text, bytes are
    the whole response body, an int is a status code, and a float is a delay in seconds before the reply "1".
    """
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(requests)
                requests.append((self.path, dict(self.headers), body))
            reply = behave(number, body)
            if isinstance(reply, float):
                time.sleep(reply)
                reply = "1"
            self.send_response(reply if isinstance(reply, int) else 200)
            self.end_headers()
            if isinstance(reply, str):
                self.wfile.write(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())
            if isinstance(reply, bytes):
                self.wfile.write(reply)

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except OSError:  # the client has closed the connection
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # The poll interval: with the default of 0.5 s, shutdown() takes that long.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
