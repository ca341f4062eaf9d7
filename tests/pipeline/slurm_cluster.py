"""A Slurm of a test's own on the loopback: munged, slurmctld and slurmd in a temporary folder."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.pipeline.prefect_server import free_port, started, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
CONFIG = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def missing() -> str:
    """Why Slurm cannot run here; empty if it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: `apt-get install slurmctld slurmd slurm-client munge`"
    return "" if os.getuid() == 0 else "slurmctld and slurmd of this test run as root"


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """One node with two cores; yields the variables with which its commands are called."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o755)
    key = folder / "munge/key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    host = socket.gethostname()
    config = folder / "slurm.conf"
    ports = {"port": free_port(), "node_port": free_port()}
    config.write_text(CONFIG.format(host=host, folder=folder, **ports))
    munge = folder / "munge"
    variables = {"SLURM_CONF": str(config), "PATH": _path()}
    environment = {**os.environ, **variables}
    commands = {
        "munged": [
            "munged", "-F", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        ],
        "slurmctld": ["slurmctld", "-D"],
        "slurmd": ["slurmd", "-D"],
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, words in commands.items():
            stack.enter_context(started(words, folder / f"{name}.log", env=environment))
            if name == "munged":
                until(30, "munged listens", lambda: (munge / "socket").exists())

        def idle() -> bool:
            words = ["sinfo", "-h", "-o", "%T"]
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, check=False
            )
            return done.stdout.strip() == "idle"

        until(60, f"the node is ready: {folder}", idle)
        yield variables
