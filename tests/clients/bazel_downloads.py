"""Bazel has the node download what a build needs from elsewhere, for all machines at once."""

import hashlib
import http.server
import threading

from lib import bazel, table
from lib.case import BazelTest
from lib.table import COLD, shows

GIFT = b"a gift\n"
# Debian's Bazel downloads nothing unless it is told to.
DOWNLOADS = ("--noexperimental_repository_disable_download", "--config=farmhand-downloads")


class Downloads(BazelTest):
    """Bazel 2.1.0 has no remote downloader."""

    CLIENT = table.BAZEL_4
    VERSION = bazel.BAZEL_4
    WORKSPACE = "downloads"
    # Who may not be asked otherwise: a host that is not on the internet.
    NODE_OPTIONS = ("--asset-networks", "127.0.0.1/32")

    def setUp(self) -> None:
        super().setUp()
        self.origin = Origin()
        self.addCleanup(self.origin.stop)
        digest = hashlib.sha256(GIFT).hexdigest()
        (self.workspace.root / "WORKSPACE").write_text(
            'load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_file")\n'
            f'http_file(name = "gift", urls = ["{self.origin.url}"], sha256 = "{digest}")\n')

    @shows(COLD, "✓, downloads too")
    def test_what_was_downloaded_once_needs_no_origin(self) -> None:
        for _ in range(2):
            self.workspace.build(*DOWNLOADS, "//...")
            self.assertEqual(GIFT.upper(), self.workspace.output("unwrapped.txt").read_bytes())
            self.assertEqual(1, self.origin.asked)
            self.origin.stop()
            self.workspace.forget()

    def test_what_the_origin_lacks_is_told(self) -> None:
        self.origin.gift = None
        run = self.workspace.build(*DOWNLOADS, "//...", code=bazel.BUILD_FAILED)
        # This version takes the answer for an empty file, and tells that it is not the one.
        self.assertIn("Error in download", run.output)
        self.assertGreater(self.origin.asked, 0)
        self.assertIn("404 Not Found", self.node.log.read_text())


class Origin:
    """A server with one file, on a port of its own."""

    def __init__(self):
        self.gift: bytes | None = GIFT
        self.asked = 0
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                origin.asked += 1
                gift = origin.gift
                self.send_response(404 if gift is None else 200)
                self.send_header("Content-Length", str(len(gift or b"")))
                self.end_headers()
                self.wfile.write(gift or b"")

            def log_message(self, *_) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/gift.txt"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Nobody listens there any more."""
        self._server.shutdown()
        self._server.server_close()
