"""A model hub on loopback, with the tests' own repositories."""

import hashlib
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(root, names):
    """Serve the folders of repositories as a model hub does.

    The block gets its address and the requested paths.
    """
    for name in names:
        files = list((root / name / "resolve" / COMMIT).iterdir())
        tree = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT}
            for file in files
        ]
        about = {
            "id": name,
            "sha": COMMIT,
            "siblings": [{"rfilename": file.name, "size": file.stat().st_size} for file in files],
            "tags": ["license:mit"],
        }
        answers = {"revision/main": about, f"revision/{COMMIT}": about, f"tree/{COMMIT}": tree}
        for address, record in answers.items():
            path = root / "api" / "models" / name / address
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", "RepoNotFound")  # looked at where the status is 404
            super().end_headers()

        def log_message(self, *words):
            requests.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root)) as http:
        threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}", requests
        finally:
            http.shutdown()
