"""A real Slurm on this machine for tests: munge, one controller, one node, on ports of their own.

Everything lives in one folder and ends with the session. Nothing is installed: tests that want it
are skipped, by name of what is missing, unless SAECTL_NEEDS_SLURM says that it must be there.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
PATIENCE = 300.0
CONF = """\
ClusterName=saectl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=5
OverTimeLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2048 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm, and the environment in which its commands find it."""

    root: Path
    env: dict[str, str]

    def __call__(self, *words: str) -> str:
        """What a command of Slurm says. Fails when it fails."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}{self.logs()}"
        return done.stdout

    def jobs(self) -> list[list[str]]:
        """Every job that has not ended: id, array's id, element, state, name."""
        said = self("squeue", "--noheader", "--array", "--format=%A %F %K %T %j")
        return [line.split() for line in said.splitlines()]

    def idle(self) -> bool:
        """Whether no job is left."""
        return not self.jobs()

    def logs(self) -> str:
        """The end of the daemons' logs."""
        found = []
        for name in ("slurmctld", "slurmd"):
            with suppress(OSError):
                lines = (self.root / f"{name}.log").read_text().splitlines()[-15:]
                found.append(f"\n--- {name}\n" + "\n".join(lines))
        return "".join(found)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node with as many cores as this machine."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        said = f"no {', '.join(missing)} (Debian: slurm-wlm, munge)"
        if os.environ.get("SAECTL_NEEDS_SLURM"):
            pytest.fail(said)
        pytest.skip(said)
    root = tmp_path_factory.mktemp("slurm")
    root.chmod(0o755)
    for name in ("state", "spool"):
        (root / name).mkdir()
    conf = root / "slurm.conf"
    conf.write_text(
        CONF.format(
            host=socket.gethostname().split(".")[0],
            ports=_ports(2),
            user=getpass.getuser(),
            root=root,
            cpus=os.cpu_count(),
        )
    )
    env = {**os.environ, "SLURM_CONF": str(conf), "PATH": _path()}
    made = Slurm(root, env)
    daemons = [_munge(root, env)]
    try:
        daemons += [_started(env, name, "-D") for name in ("slurmctld", "slurmd")]
        _until_up(made)
        yield made
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()


def _path() -> str:
    """Debian keeps daemons in /usr/sbin, which a user's PATH may lack."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _munge(root: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    key = root / "munge.key"
    subprocess.run(["mungekey", "--create", f"--keyfile={key}"], env=env, check=True)
    words = [f"--socket={root}/munge.socket", f"--key-file={key}", f"--pid-file={root}/munge.pid"]
    words += [f"--log-file={root}/munge.log", f"--seed-file={root}/munge.seed", "--force"]
    daemon = _started(env, "munged", "--foreground", *words)
    deadline = time.monotonic() + 20
    while not (root / "munge.socket").exists():
        assert daemon.poll() is None and time.monotonic() < deadline, "munged did not start"
        time.sleep(0.05)
    return daemon


def _started(env: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _until_up(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=slurm.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout.split() == ["idle"]:
            return
        assert time.monotonic() < deadline, (
            f"no idle node: {done.stdout}{done.stderr}{slurm.logs()}"
        )
        time.sleep(0.2)


def _ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
