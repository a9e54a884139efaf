"""How each program is called for the same steps, all in their default configuration."""

import glob
import os
import re
import subprocess

from .measure import Failed, run, tree_size


class Tool:
    """One program with one repository for all steps. A label (linux, image, random) names a history in it."""

    name = ""
    can_mount = True

    def __init__(self, program, work):
        self.program = program
        self.work = os.path.join(work, self.name)
        self.repo = os.path.join(self.work, "repo")
        self.home = os.path.join(self.work, "home")
        self.password = os.path.join(self.work, "password")
        self.log = os.path.join(self.work, "log")
        self.done = set()

    def env(self):
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TERM", "TZ") if key in os.environ}
        return kept | {"HOME": self.home, "NO_COLOR": "1"}

    def call(self, *args, cwd=None, stdout=None):
        return run([self.program, *args], self.log, env=self.env(), cwd=cwd, stdout=stdout)

    def prepare(self):
        """An empty repository, with no caches."""
        os.makedirs(self.home)
        with open(self.password, "w") as file:
            file.write("benchmark\n")
        self.init()

    def version(self):
        out = subprocess.run([self.program, *self.version_args], env=self.env(), capture_output=True, text=True).stdout
        return out.strip().splitlines()[0] if out.strip() else "?"

    version_args = ("--version",)

    def backed_up(self, label, path):
        result = self.backup(label, path)
        self.done.add(label)
        return result

    def restored(self, target, path):
        """Where `path` lies below the directory it was restored to."""
        return target + path

    def mount_path(self, directory, label, path):
        return directory + path

    def sizes(self):
        """{what: bytes} of the repository, and of what is derived and could be lost, apart."""
        return {"repository": tree_size(self.repo)[1], "caches": tree_size(self.home)[1]}


class Packmule(Tool):
    name = "packmule"
    version_args = ("version",)

    def env(self):
        return super().env() | {"PACKMULE_REPOSITORY": self.repo, "PACKMULE_PASSWORD_FILE": self.password}

    def init(self):
        self.call("init")

    def backup(self, label, path):
        return self.call("backup", "--source", label, path)

    def restore(self, label, path, target):
        return self.call("restore", "--source", label, "--target", target, "latest")

    def mount_argv(self, label, directory):
        return [self.program, "mount", directory]

    def mount_path(self, directory, label, path):
        found = glob.glob(f"{directory}/hosts/*/{label}/latest")
        return found[0] + path if found else None

    def sizes(self):
        reserve = os.path.join(self.repo, "reserve")
        return {
            "repository": tree_size(self.repo, skip=("index", "reserve", "tmp"))[1],
            "index": tree_size(os.path.join(self.repo, "index"))[1],
            "reserve": os.stat(reserve).st_size if os.path.exists(reserve) else 0,
            "caches": tree_size(self.home)[1],
        }


class Restic(Tool):
    name = "restic"
    version_args = ("version",)

    def env(self):
        return super().env() | {"RESTIC_REPOSITORY": self.repo, "RESTIC_PASSWORD_FILE": self.password}

    def init(self):
        self.call("init")

    def backup(self, label, path):
        return self.call("backup", "--tag", label, path)

    def restore(self, label, path, target):
        return self.call("restore", "latest", "--tag", label, "--target", target)

    def mount_argv(self, label, directory):
        return [self.program, "mount", directory]

    def mount_path(self, directory, label, path):
        return f"{directory}/tags/{label}/latest{path}"


class Rustic(Tool):
    name = "rustic"

    def __init__(self, program, work):
        super().__init__(program, work)
        # Only a build with the feature `mount` has the command.
        self.can_mount = subprocess.run([program, "mount", "--help"], capture_output=True).returncode == 0

    def env(self):
        return super().env() | {"RUSTIC_REPOSITORY": self.repo, "RUSTIC_PASSWORD_FILE": self.password, "RUSTIC_NO_PROGRESS": "true"}

    def init(self):
        self.call("init")

    def backup(self, label, path):
        return self.call("backup", "--tag", label, path)

    def restore(self, label, path, target):
        return self.call("restore", "--filter-tags", label, "latest", target)

    def mount_argv(self, label, directory):
        return [self.program, "mount", "--filter-tags", label, directory, "latest"]


class Borg(Tool):
    name = "borg"

    def __init__(self, program, work):
        super().__init__(program, work)
        self.count = 0
        self.newest = {}

    def env(self):
        return super().env() | {
            "BORG_REPO": self.repo,
            "BORG_BASE_DIR": self.home,
            "BORG_PASSPHRASE": "benchmark",
        }

    def init(self):
        # There is no default; of the encrypted modes this is the one meant for processors without SHA instructions.
        self.call("init", "--encryption", "repokey-blake2")

    def backup(self, label, path):
        self.count += 1
        archive = f"{label}-{self.count}"
        result = self.call("create", "::" + archive, path)
        self.newest[label] = archive
        return result

    def restore(self, label, path, target):
        os.makedirs(target, exist_ok=True)
        return self.call("extract", "::" + self.newest[label], cwd=target)

    def mount_argv(self, label, directory):
        return [self.program, "mount", "--foreground", "::" + self.newest[label], directory]


class Bupstash(Tool):
    name = "bupstash"
    can_mount = False

    def __init__(self, program, work):
        super().__init__(program, work)
        self.newest = {}

    def env(self):
        return super().env() | {"BUPSTASH_REPOSITORY": self.repo, "BUPSTASH_KEY": os.path.join(self.work, "key")}

    def init(self):
        self.call("new-key", "-o", os.path.join(self.work, "key"))
        self.call("init")

    def backup(self, label, path):
        out = os.path.join(self.work, "id")
        with open(out, "wb") as file:
            result = self.call("put", "--quiet", "name=" + label, path, stdout=file)
        with open(out) as file:
            found = re.search(r"[0-9a-f]{32}", file.read())
        if not found:
            raise Failed("bupstash put printed no id")
        self.newest[label] = found.group()
        return result

    def restore(self, label, path, target):
        query = "id=" + self.newest[label]
        os.makedirs(target, exist_ok=True)
        if os.path.isdir(path):
            return self.call("restore", "--quiet", "--into", target, query)
        with open(os.path.join(target, os.path.basename(path)), "wb") as file:
            return self.call("get", "--quiet", query, stdout=file)

    def restored(self, target, path):
        return target if os.path.isdir(path) else os.path.join(target, os.path.basename(path))


TOOLS = [Packmule, Restic, Borg, Rustic, Bupstash]
