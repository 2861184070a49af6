"""A local model hub for tests that accepts and stores repositories and commits."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


@contextmanager
def serving(refusal=None):
    """Yield (endpoint, repositories), repositories as {name: {"private", "files", "commits", "tokens"}}.

    "private" is a bool, "files" maps paths to bytes, "commits" lists titles and "tokens" is the set of authorization
    headers. `refusal` is a status code that every request gets instead.
    """
    repositories = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if refusal:
                return self.reply({"error": "refused"}, refusal)
            path = self.path.partition("?")[0]
            if path == "/api/validate-yaml":
                yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
                return self.reply({"warnings": [], "errors": []})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if name in repositories:
                    return self.reply({"error": "exists", "url": f"{self.endpoint}/{name}"}, 409)
                private = asked.get("visibility") == "private"
                repositories[name] = {"private": private, "files": {}, "commits": [], "tokens": set()}
                return self.reply({"url": f"{self.endpoint}/{name}"})
            _, _, _, owner, model, action, _ = path.split("/")
            repository = repositories[f"{owner}/{model}"]
            repository["tokens"].add(self.headers["Authorization"])
            if action == "preupload":
                files = json.loads(body)["files"]
                return self.reply({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                             for file in files]})  # fmt: skip
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    repository["commits"].append(line["value"]["summary"])
                else:
                    repository["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.reply({"commitUrl": f"{self.endpoint}/{owner}/{model}/commit/0", "commitOid": "0"})

        def do_GET(self):
            self.reply({"error": "not found"}, refusal or 404)

        def reply(self, value, status=200):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.endpoint = f"http://127.0.0.1:{server.server_port}"
    # The poll interval: with the default of 0.5 s, shutdown() takes that long.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Handler.endpoint, repositories
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
