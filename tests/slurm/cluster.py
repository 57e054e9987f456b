"""A real SLURM cluster of two nodes on one machine, for tests: all its files are in one folder, all its processes end with it."""

import ctypes
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

NODES = ("n1", "n2")
ACCOUNT = "0042"  # YAML reads it as 34
PACKAGES = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "scontrol": "slurm-wlm"}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "sacct": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
# Daemons are in folders that the PATH of an ordinary user lacks.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# Variables of a test, or of a job on a real cluster that runs the tests, must not reach the commands of this cluster.
FOREIGN = ("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SACCT_", "SALLOC_", "SCANCEL_", "SCONTROL_")
SEPARATOR = "\x1f"
PR_SET_CHILD_SUBREAPER = 36


def reason_to_skip(accounting: bool) -> str:
    """Why tests with a cluster cannot run here, in one sentence; empty if they can."""
    packages = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
    missing = [name for name in packages if not shutil.which(name, path=SEARCH_PATH)]
    if not missing:
        return ""
    needed = sorted({packages[name] for name in missing})
    return f"needs {' and '.join(needed)} (Debian packages): {', '.join(missing)} not found"


def wait_for(condition: Callable[[], Any], timeout: float, what: str | Callable[[], str], interval: float = 0.1) -> Any:
    """The first true answer of `condition`; a TimeoutError that names `what` if there is none in `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"Not within {timeout:g} seconds: {what if isinstance(what, str) else what()}")
        time.sleep(interval)
    return answer


class CommandError(RuntimeError):
    """A command of the cluster failed; its message holds what it wrote."""


@dataclass(frozen=True)
class Job:
    """What slurmctld knows of a job."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, COMPLETED, ...
    partition: str
    account: str
    nodes: str  # where it runs or ran last; empty before
    tres: str  # what it asks for: cpu=1,mem=500M,node=1,billing=1; with accounting gpus too, once it has run
    gpus: int  # what it asks for, on all nodes together
    gpus_of_job: bool  # with --gpus, not with --gres
    comment: str
    restarts: int


# Of squeue --Format, each in a column of this width.
FIELDS = ("JobID", "Name", "State", "Partition", "Account", "NodeList", "tres-alloc")
FIELDS = (*FIELDS, "tres-per-job", "tres-per-node", "NumNodes", "Comment", "RestartCnt")
FIELD_WIDTH = 400


class Keeper:
    """A process that starts daemons, and kills them and all their descendants when it is told to or when its parent ends."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches the tests, which then stop the cluster.
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def start(self, command: Sequence[str], environment: dict[str, str], log: Path) -> int:
        """Starts a daemon, its output appended to `log`; its process id."""
        self._process.stdin.write(json.dumps([list(command), environment, str(log)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise CommandError(f"{command[0]} could not be started.")
        return int(answer)

    def stop(self) -> None:
        """Returns when no process is left."""
        with suppress(BrokenPipeError), self._process.stdin, self._process.stdout:
            # Said, for a copy of the tests made by fork may hold the pipe open.
            self._process.stdin.write("null\n")
            self._process.stdin.flush()
        self._process.wait(timeout=60)


def keep() -> None:
    """What the process of a Keeper runs: one line of its input is one daemon, and the end of its input is the end of all."""
    # Orphans become children of this process instead of init's: slurmstepd, and processes that jobs leave behind.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for line in sys.stdin:
            if not (daemon := json.loads(line)):
                break
            command, environment, log = daemon
            with open(log, "ab") as output:
                files = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                print(subprocess.Popen(command, env=environment, start_new_session=True, **files).pid, flush=True)
    finally:
        while children := psutil.Process().children(recursive=True):
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            time.sleep(0.01)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class Cluster:
    """A running cluster; `start_cluster` makes one."""

    def __init__(self, folder: Path, accounting: bool, memory: int) -> None:
        self.folder = folder
        self.accounting = accounting
        self.memory = memory
        self.logs = folder / "logs"
        self.user = pwd.getpwuid(os.getuid()).pw_name
        #: For commands that are to use this cluster: `subprocess.run(..., env=cluster.environment)`.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self._keeper = Keeper(self.logs / "keeper.log")
        self._daemons: dict[str, psutil.Process] = {}

    def run(self, *command: str, timeout: float = 60) -> str:
        """What a command writes to stdout; CommandError with its stderr where it fails."""
        finished = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)
        if finished.returncode:
            raise CommandError(f"{' '.join(command)} ended with {finished.returncode}: {finished.stdout}{finished.stderr}")
        return finished.stdout

    def submit(self, script: str, *options: str) -> str:
        """Submits a line for the shell with options of sbatch; the number of the job."""
        output = f"--output={self.folder}/jobs/%j.log"
        return self.run("sbatch", "--parsable", output, *options, f"--wrap={script}").strip()

    def jobs(self) -> list[Job]:
        """All jobs that slurmctld knows, those that ended included (it forgets them after five minutes)."""
        fields = ",".join(f"{name}:{FIELD_WIDTH}{SEPARATOR}" for name in FIELDS)
        lines = self.run("squeue", "--noheader", "--all", "--states=all", f"--Format={fields}").splitlines()
        return [_job(line) for line in lines if line.strip()]

    def job(self, number: str) -> Job:
        return {job.id: job for job in self.jobs()}[number]

    def wait_for_state(self, number: str, *states: str, timeout: float = 60) -> Job:
        """The job once it is in one of the states."""
        wait_for(lambda: self.job(number).state in states, timeout, lambda: f"state {' or '.join(states)} of {self.job(number)}")
        return self.job(number)

    def cancel(self, number: str) -> None:
        self.run("scancel", number)

    def nodes(self) -> dict[str, str]:
        """State of each node as sinfo names it: idle, mixed, allocated, down, ..., with a star where slurmd does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").split("\n")
        return dict(line.split() for line in lines if line)

    def down(self, node: str) -> None:
        """Take a node down as an administrator does: SLURM ends its jobs, and starts those again that may be requeued."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def resume(self, node: str, timeout: float = 30) -> None:
        """Undo `down`, and wait until the node takes jobs again."""

        def ready() -> bool:
            if self.nodes()[node] in ("idle", "mixed", "allocated"):
                return True
            with suppress(CommandError):  # refused while SLURM waits for the end of a job
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
            return False

        wait_for(ready, timeout, lambda: f"{node} takes jobs: {self.nodes()}\n{self.tails()}")

    def tails(self, lines: int = 15) -> str:
        """The last lines of the log of each daemon."""
        parts = []
        for log in sorted(self.logs.iterdir()):
            text = log.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {log.name}", *text]))
        return "\n".join(parts)

    def start(self, timeout: float) -> None:
        """Returns when all nodes are idle."""
        self._start("munged", *self._munged())
        if self.accounting:
            self._start_accounting(timeout)
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self._start(node, "slurmd", "-D", "-N", node)
        wait_for(self._all_idle, timeout, "all nodes are idle")

    def stop(self) -> None:
        """Kill all processes of the cluster."""
        self._keeper.stop()

    def _start(self, name: str, program: str, *options: str, **environment: str) -> None:
        path = shutil.which(program, path=SEARCH_PATH) or program
        log = self.logs / f"{name}.log"
        pid = self._keeper.start([path, *options], self.environment | environment, log)
        with suppress(psutil.NoSuchProcess):
            self._daemons[name] = psutil.Process(pid)
            return
        raise CommandError(f"{name} ended.")

    def _munged(self) -> list[str]:
        # --force: folders of tests may lie below one that all may write to, such as /tmp.
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        return ["munged", "--foreground", "--force", *options, f"--log-file={self.logs / 'munge.log'}"]

    def _start_accounting(self, timeout: float) -> None:
        data, door = self.folder / "database", self.folder / "database.socket"
        options = ["--no-defaults", f"--user={self.user}", f"--datadir={data}", "--skip-name-resolve"]
        # Nothing has to outlast the machine: with what goes to disk at once the start takes ten times as long.
        options += ["--debug-no-sync", "--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0"]
        options += ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--performance-schema=0"]
        users = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={self.user}", "--skip-test-db"]
        (self.logs / "install-database.log").write_text(self.run("mariadb-install-db", *options, *users))
        places = [f"--socket={door}", f"--pid-file={self.folder / 'database.pid'}"]
        self._start("mariadbd", "mariadbd", *options, *places, "--skip-networking", "--innodb-lock-wait-timeout=900")
        wait_for(lambda: self._alive() and _answers(door), timeout, "MariaDB answers")
        self._start("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(door))
        wait_for(lambda: self._alive() and self._works("sacctmgr", "list", "cluster"), timeout, "slurmdbd answers")
        self.run("sacctmgr", "-i", "add", "cluster", "test")
        self.run("sacctmgr", "-i", "add", "account", ACCOUNT, "cluster=test")
        self.run("sacctmgr", "-i", "add", "user", self.user, f"account={ACCOUNT}")
        self.run("sacctmgr", "-i", "modify", "user", self.user, "set", f"defaultaccount={ACCOUNT}")

    def _works(self, *command: str) -> bool:
        with suppress(CommandError):
            self.run(*command)
            return True
        return False

    def _alive(self) -> bool:
        """True; CommandError where a daemon has ended."""
        for name, daemon in self._daemons.items():
            if not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE:
                raise CommandError(f"{name} ended.")
        return True

    def _all_idle(self) -> bool:
        self._alive()
        with suppress(CommandError):  # slurmctld does not answer yet
            states = self.nodes()
            return [states.get(node) for node in NODES] == ["idle"] * len(NODES)
        return False


def _job(line: str) -> Job:
    fields = [field.strip() for field in line.split(SEPARATOR)]
    fields = ["" if field in ("N/A", "(null)") else field for field in fields]
    *texts, per_job, per_node, nodes, comment, restarts = fields[: len(FIELDS)]
    # --gpus is per job, --gres and --gpus-per-node are per node.
    gpus = _gpus(per_job) or _gpus(per_node) * int(nodes)
    return Job(*texts, gpus=gpus, gpus_of_job=_gpus(per_job) > 0, comment=comment, restarts=int(restarts))


def _gpus(tres: str) -> int:
    """The number in gres:gpu:2, gres:gpu:a100:2 and gres:gpu, which is one."""
    found = re.search(r"\bgpu(?::[a-z]\w*)?(?::(\d+))?", tres)
    return int(found[1] or 1) if found else 0


def _answers(door: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(door))
        return True
    return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # held together, so that they differ
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def _configure(cluster: Cluster, memory_kill: bool, extra: Sequence[str]) -> None:
    folder = cluster.folder
    controller, database, *ports = _free_ports(2 + len(NODES))
    host = socket.gethostname().split(".")[0]
    # The lifetime of a credential is also how long a requeued job waits before it may start again: two minutes by default.
    lines = f"""
        ClusterName=test
        SlurmctldHost={host}(127.0.0.1)
        SlurmctldPort={controller}
        SlurmUser={cluster.user}
        SlurmdUser={cluster.user}
        AuthType=auth/munge
        CredType=cred/munge
        AuthInfo=socket={folder}/munge.socket,cred_expire=5
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool-%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd-%n.pid
        SlurmdLogFile={folder}/logs/slurmd-%n.log
        MailProg=/bin/true
        MpiDefault=none
        SwitchType=switch/none
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        PropagateResourceLimits=NONE
        JobCompType=jobcomp/none
        JobAcctGatherType=jobacct_gather/linux
        JobAcctGatherFrequency=task=1
        {"JobAcctGatherParams=OverMemoryKill" if memory_kill else ""}
        AccountingStorageType=accounting_storage/{"slurmdbd" if cluster.accounting else "none"}
        SchedulerType=sched/backfill
        SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core_Memory
        SlurmdParameters=config_overrides
        DefMemPerCPU=500
        JobRequeue=1
        ReturnToService=1
        KillWait=2
        InactiveLimit=0
        SlurmdTimeout=10
        SlurmctldTimeout=10
        GresTypes=gpu
    """
    text = [line.strip() for line in lines.splitlines() if line.strip()]
    if cluster.accounting:
        # The password for slurmdbd is the socket of munge.
        text += ["AccountingStorageHost=127.0.0.1", f"AccountingStoragePort={database}", "AccountingStorageTRES=gres/gpu"]
        text.append(f"AccountingStoragePass={folder}/munge.socket")
    gpus = []
    for node, port in zip(NODES, ports, strict=True):
        gpu = folder / f"{node}-gpu0"
        gpu.symlink_to("/dev/null")  # any device will do
        gpus.append(f"NodeName={node} Name=gpu File={gpu}")
        size = f"CPUs=2 RealMemory={cluster.memory} Gres=gpu:1"
        text.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {size} State=UNKNOWN")
    for name, default in (("main", "YES"), ("other", "NO")):
        text.append(f"PartitionName={name} Nodes={','.join(NODES)} Default={default} MaxTime=INFINITE State=UP")
    _write(folder / "slurm.conf", "\n".join([*text, *extra, ""]))
    _write(folder / "gres.conf", "\n".join([*gpus, ""]))
    if cluster.accounting:
        lines = f"""
            DbdHost=localhost
            DbdAddr=127.0.0.1
            DbdPort={database}
            SlurmUser={cluster.user}
            AuthType=auth/munge
            AuthInfo=socket={folder}/munge.socket
            PidFile={folder}/slurmdbd.pid
            StorageType=accounting_storage/mysql
            StorageHost=localhost
            StorageUser={cluster.user}
            StorageLoc=slurm
        """
        _write(folder / "slurmdbd.conf", "\n".join(line.strip() for line in lines.splitlines()))


@contextmanager
def start_cluster(
    folder: Path,
    accounting: bool,
    *,
    memory: int = 10000,
    memory_kill: bool = False,
    extra: Sequence[str] = (),
    timeout: float = 60,
) -> Iterator[Cluster]:
    """A cluster of the nodes n1 and n2, each with two CPUs and one GPU that is only a file; it is gone when the block ends.

    Args:
        folder: All files of the cluster lie in it, and of no other. Its path has to be short, for there are sockets in it.
        accounting: With slurmdbd and a database of its own, and `ACCOUNT` as the account of the user; without, sacct fails.
        memory: MB of each node.
        memory_kill: Whether SLURM kills what uses more memory than it asked for.
        extra: More lines of slurm.conf.
        timeout: Seconds for each step of the start.
    """
    if reason := reason_to_skip(accounting):
        raise RuntimeError(f"A cluster {reason}.")
    folder = folder.resolve()
    if len(str(folder / "database.socket")) > 107:
        raise ValueError(f"The path of a socket has at most 107 characters: {folder} is too long.")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("logs", "state", "jobs", *(f"spool-{node}" for node in NODES)):
        (folder / part).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    cluster = Cluster(folder, accounting, memory)
    _configure(cluster, memory_kill, extra)
    try:
        try:
            cluster.start(timeout)
        except (CommandError, TimeoutError) as error:
            raise RuntimeError(f"The cluster did not start. {error}\n{cluster.tails()}") from error
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    keep()
