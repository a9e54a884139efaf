"""A pool that serves, sites that push to it, and OpenSSH for the peers, for `scripts/bench-sync`."""

import json
import os
import signal
import subprocess
import time

from .data import apt_install
from .measure import Failed, high_water, last_line, remove, run

PORT = 7600


class Packmule:
    """The program, with a home of its own. `prefix` is where its commands run."""

    def __init__(self, program, work, prefix=()):
        self.program, self.work, self.prefix = program, work, list(prefix)
        self.log = os.path.join(work, "log")
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TERM", "TZ") if key in os.environ}
        self.env = kept | {"HOME": os.path.join(work, "home"), "PACKMULE_PASSWORD": "benchmark"}
        os.makedirs(self.env["HOME"], exist_ok=True)

    def at(self, prefix):
        return Packmule(self.program, self.work, prefix)

    def argv(self, *args):
        return [*self.prefix, self.program, *args]

    def call(self, *args):
        """(seconds with sync, peak resident bytes)."""
        return run(self.argv(*args), self.log, env=self.env, cwd=self.work)

    def said(self, *args, stdin=None):
        done = subprocess.run(self.argv(*args), env=self.env, cwd=self.work, input=stdin, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{args}: status {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def push(self, repo, remote="cloud"):
        """(seconds without sync, what the push says in JSON)."""
        start = time.monotonic()
        out = self.said("--json", "-r", repo, "sync", "push", remote)
        seconds = time.monotonic() - start
        return seconds, [json.loads(line) for line in out.splitlines() if '"summary"' in line][-1]


class Pool:
    """A new pool and its server, for a `with`. The site's commands run behind `site`, the server behind `cloud`."""

    def __init__(self, packmule, name, host="127.0.0.1", site=(), cloud=()):
        self.repo, self.address = os.path.join(packmule.work, name), f"{host}:{PORT}"
        self.site, self.cloud = packmule.at(site), packmule.at(cloud)

    def __enter__(self):
        remove(self.repo)
        self.cloud.said("-r", self.repo, "init", "--pool")
        self.out = open(os.path.join(self.cloud.work, "serve.log"), "wb+")
        argv = self.cloud.argv("-r", self.repo, "serve", "--listen", self.address)
        self.server = subprocess.Popen(argv, env=self.cloud.env, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)
        self.pid = self.server.pid
        until = time.monotonic() + 30
        while b"serving on" not in self.said():
            if time.monotonic() > until or self.server.poll() is not None:
                self.__exit__()
                raise Failed("the server did not start: " + last_line(self.out.name))
            time.sleep(0.05)
        return self

    def said(self):
        with open(self.out.name, "rb") as file:
            return file.read()

    def connect(self, repo, tenant, *options):
        """Makes a tenant and connects a site to it."""
        self.cloud.said("-r", self.repo, "tenant", "create", tenant, *options)
        invitation = self.cloud.said("-q", "-r", self.repo, "tenant", "invite", tenant, "--address", self.address)
        self.site.said("-r", repo, "remote", "add", "cloud", "--yes", stdin=invitation)

    def peak(self):
        return high_water(self.pid)

    def cpu(self):
        """Seconds of all its threads so far."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_):
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.out.close()


class OpenSsh:
    """An OpenSSH server of its own on the loopback, for a `with`; `command` is the client's."""

    PORT = 7601

    def __init__(self, work):
        self.work = os.path.join(work, "openssh")

    def __enter__(self):
        apt_install(["openssh-server", "openssh-client"])
        remove(self.work)
        os.makedirs(self.work, mode=0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(self.work, key)], check=True)
        os.rename(os.path.join(self.work, "user.pub"), os.path.join(self.work, "authorized"))
        config = os.path.join(self.work, "sshd_config")
        with open(config, "w") as file:
            file.write(f"Port {self.PORT}\nListenAddress 127.0.0.1\nHostKey {self.work}/host\nAuthorizedKeysFile {self.work}/authorized\n"
                       "StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nPidFile none\n")
        os.makedirs("/run/sshd", exist_ok=True)
        self.server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-q", "-f", config])
        self.command = (f"ssh -p {self.PORT} -i {self.work}/user -o BatchMode=yes -o StrictHostKeyChecking=no "
                        f"-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR")
        for _ in range(50):
            if subprocess.run([*self.command.split(), "127.0.0.1", "true"], stderr=subprocess.DEVNULL).returncode == 0:
                return self
            time.sleep(0.1)
        self.__exit__()
        raise Failed("sshd did not start")

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()
