"""Serve the page in this folder to this machine alone.

    make web                            # writes the network, fetches the runtime, and calls this
    python -m web.serve --port 8080

It first writes face_parser.json, which tells the page the classes of face_parser.onnx and the constants of
faceparse.faces. Any static host will do as well; this server adds two headers that let WebAssembly use several threads,
and the page's content-security policy as a header too, which then holds for the worker as well.
"""

import json
import re
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from faceparse.errors import InputError, run_script
from faceparse.faces.crops import CLASSES_OF_PARTS, MEAN_PARTS
from faceparse.faces.face_parser import MAX_ENLARGEMENT, PORTRAIT_OVERLAP
from faceparse.faces.looks import ISLAND, ISLAND_EDGE, MARGIN, STEP
from faceparse.faces.tracking import FACE_SHARE, WHOLE_EVERY, WHOLE_SHARE
from faceparse.files import atomic_path
from faceparse.inference.networks import OnnxNetwork
from options import serve_parser

FOLDER = Path(__file__).resolve().parent
BUILT = ("face_parser.onnx", "sample.jpg", "vendor")


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Content-Security-Policy", content_security_policy(self.directory))
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_):
        pass


def content_security_policy(folder):
    """Return the policy that the page in a folder sets for itself."""
    page = (Path(folder) / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', page)[1]
    return " ".join(policy.split())  # a header is one line


def describe_network(path):
    """Write beside an .onnx file, as JSON, its classes, its image size, and the constants of faceparse.faces."""
    network = OnnxNetwork(path)
    names = network.class_set.names
    parts = []
    for part, centre in MEAN_PARTS.items():
        ids = network.class_set.subject_ids(*CLASSES_OF_PARTS.get(part, (part,)))
        parts.append({"ids": ids, "centre": centre})  # shares of the sides
    constants = {"step": STEP, "margin": MARGIN, "portrait_overlap": PORTRAIT_OVERLAP}
    constants |= {"max_enlargement": MAX_ENLARGEMENT, "island": ISLAND, "island_edge": ISLAND_EDGE}
    constants |= {"whole_share": WHOLE_SHARE / FACE_SHARE, "whole_every": WHOLE_EVERY}
    classes = {"names": names, "colours": network.class_set.colours, "parts": parts}
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(classes | constants | {"image_size": network.image_size}), encoding="utf-8")


def make_server(folder, port):
    """Return the server of a folder on 127.0.0.1; port 0 is a free one. Raises InputError if the port is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise InputError(f"--port {port}: cannot be used ({error.strerror}); choose another") from None


def main(args):
    missing = [name for name in BUILT if not (FOLDER / name).exists()]
    if missing:
        raise InputError(f"{FOLDER / missing[0]}: is missing; make web writes it")
    describe_network(FOLDER / "face_parser.onnx")
    with make_server(FOLDER, args.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/    (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    run_script(lambda: main(serve_parser(__doc__).parse_args()))
