"""Time and memory of one command, from a cold cache, with sync inside the time."""

import os
import shutil
import subprocess
import time

MOUNT_TIMEOUT = 300.0


class Failed(Exception):
    """A command failed; the message is its last line."""


def cold():
    """Everything written, nothing cached."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def run(argv, log, env=None, cwd=None, stdout=None):
    """Runs a command to its end; (seconds with sync, peak resident bytes of its largest process)."""
    seconds, used = run_usage(argv, log, env, cwd, stdout)
    return seconds, used["peak"]


def run_usage(argv, log, env=None, cwd=None, stdout=None):
    """Runs a command to its end; (seconds with sync, what it used: peak resident bytes, CPU seconds, bytes read from disks).

    GNU time stands between: memory counted for a child of this interpreter would start at the interpreter's own.
    """
    rss = log + ".rss"
    timed = ["/usr/bin/time", "-q", "-f", "%M %U %S %I", "-o", rss, *argv]
    with open(log, "ab") as out:
        start = time.monotonic()
        status = subprocess.run(timed, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=out).returncode
        os.sync()
        seconds = time.monotonic() - start
    if status != 0:
        raise Failed(f"{argv[0]}: status {status}: {last_line(log)}")
    with open(rss) as file:
        peak, user, system, blocks = file.read().split()[-4:]
    return seconds, {"peak": int(peak) * 1024, "cpu": float(user) + float(system), "read": int(blocks) * 512}


def last_line(log):
    with open(log, errors="replace") as file:
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "(no output)"


class Mount:
    """A mount server in the foreground, for a `with`. `ready` is what it took until `path` answered, in seconds."""

    def __init__(self, argv, directory, find_path, log, env):
        self.argv, self.directory, self.find_path, self.log, self.env = argv, directory, find_path, log, env

    def __enter__(self):
        os.makedirs(self.directory, exist_ok=True)
        self.out = open(self.log, "ab")
        start = time.monotonic()
        self.server = subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)
        try:
            self.path = self.wait(start)
        except BaseException:
            self.close()
            raise
        self.ready = time.monotonic() - start
        return self

    def wait(self, start):
        while time.monotonic() - start < MOUNT_TIMEOUT:
            if self.server.poll() is not None:
                raise Failed(f"{self.argv[0]}: mount ended, status {self.server.returncode}: {last_line(self.log)}")
            if os.path.ismount(self.directory):
                path = self.find_path(self.directory)
                if path and os.path.lexists(path):
                    return path
            time.sleep(0.002)
        raise Failed(f"{self.argv[0]}: no mount after {MOUNT_TIMEOUT:.0f} s")

    def peak(self):
        """The server's peak resident bytes so far (those of its largest process)."""
        return max(high_water(pid) for pid in descendants(self.server.pid))

    def close(self):
        for flags in (["-u"], ["-u", "-z"]):
            if os.path.ismount(self.directory):
                subprocess.run(["fusermount3", *flags, self.directory], stdout=self.out, stderr=self.out)
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.out.close()

    def __exit__(self, *_):
        self.close()


def descendants(pid):
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    found += descendants(int(child))
    except OSError:
        pass
    return found


def high_water(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def tree_size(path, skip=()):
    """(files, bytes of regular files) below a directory; `skip` names entries at its top."""
    files = size = 0
    for folder, folders, names in os.walk(path):
        if folder == path:
            folders[:] = [name for name in folders if name not in skip]
            names = [name for name in names if name not in skip]
        for name in names:
            at = os.path.join(folder, name)
            files += 1
            if not os.path.islink(at):
                size += os.lstat(at).st_size
    return files, size


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)
