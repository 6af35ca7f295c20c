"""A SLURM of two nodes, both on this machine, with all its files in one folder: for tests and to try things.

    python tests/helpers/slurm_cluster.py COMMAND ...

starts one, runs the command with it (sbatch, squeue and others find it by SLURM_CONF), stops it, and ends with the
command's exit status. It needs Debian's packages slurm-wlm and munge, and no root.

Partitions: main; grace, whose tasks have GRACE seconds to stop when they are pre-empted; urgent, which pre-empts both.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
NODES = ("node1", "node2")
CPUS = 2  # of each node, which believes to have them, and as many GPUs
GRACE = 60
CONFIGURATION = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs={cpus} Gres=gpu:{cpus} State=UNKNOWN
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=main Default=YES
PartitionName=grace GraceTime={grace}
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
"""  # cred_expire: a job that is queued again waits as long, 120 seconds elsewhere


def is_installed():
    return all(map(_find, PROGRAMS))


@contextmanager
def cluster(folder):
    """While it runs; gives the environment in which SLURM's commands find it. ``folder``: short, a socket is in it."""
    folder = Path(folder).resolve()
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "ports": _free_ports(1 + len(NODES))}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**values, cpus=CPUS, grace=GRACE))
    for gpu in range(CPUS):
        (folder / f"gpu{gpu}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{CPUS - 1}]\n")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    munge.update({"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"})
    with ExitStack() as stack:

        def daemon(program, *arguments, name=""):
            log = stack.enter_context(open(folder / f"{name or program}.log", "w"))
            command = [_find(program), *arguments]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        daemon("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items()))
        _wait_until((folder / "munge.socket").exists, folder)
        daemon("slurmctld", "-D", "-f", configuration)
        for node in NODES:
            daemon("slurmd", "-D", "-N", node, "-f", configuration, name=node)
        _wait_until(lambda: _states(environment) == {"idle"}, folder)
        try:
            yield environment
        finally:  # jobs outlive the daemons
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment)
            _wait_until(lambda: not _jobs(environment), folder)


def _jobs(environment):
    query = ["squeue", "--noheader"]
    return subprocess.run(query, env=environment, capture_output=True, text=True).stdout.split()


def _states(environment):
    query = ["sinfo", "--noheader", "--Node", "--format=%T"]
    return set(subprocess.run(query, env=environment, capture_output=True, text=True).stdout.split())


def _find(program):
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(number):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until(condition, folder, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "".join(f"{log}:\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
            raise RuntimeError(f"SLURM does not start, or its jobs do not end\n{logs}")
        time.sleep(0.2)


def main(command):
    if not command or command[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if not is_installed():
        print("SLURM is not installed: apt-get install slurm-wlm munge", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, cluster(folder) as environment:
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
