"""A Slurm of one machine, started and stopped in about a second; nothing outside its folder is touched."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CONF = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs=2 RealMemory=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; empty if one can."""
    programs = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if programs:
        return f"{', '.join(programs)} not installed (Debian: slurm-wlm)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """While entered, sbatch and its like talk to a Slurm of two processors whose files are in `folder`."""
    control, node = _free_port(), _free_port()
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(host=host, folder=folder, control=control, node=node))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    daemons = []
    try:
        for daemon in (["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", "n1"]):
            with (folder / f"{daemon[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen([*daemon, "-f", conf], stdout=out, stderr=out))
        wait_until(lambda: "idle" in slurm_says("sinfo", "--noheader", "--format=%T"), 20)
        yield
    finally:
        # No job may outlive its Slurm, whatever became of the test.
        slurm_says("scancel", "--user=root", "--signal=KILL")
        slurm_says("scancel", "--user=root")
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not slurm_says("squeue", "--noheader"), 10)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def slurm_says(*command: str) -> str:
    """Stdout of one of Slurm's commands, empty while it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Looks ten times a second; TimeoutError if it never becomes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
