"""Where the peers are, and how they get there from the package registries."""

import os
import shutil
import subprocess
import sys

from .data import apt_install

BORG_NEEDS = ["python3-venv", "python3-dev", "pkg-config", "build-essential", "libacl1-dev", "libssl-dev", "liblz4-dev",
              "libzstd-dev", "libxxhash-dev", "libfuse3-dev", "fuse3"]


def cargo_install(directory, crate, needs, *options):
    apt_install(["build-essential", "pkg-config", *needs])
    subprocess.run(["cargo", "install", "--quiet", "--locked", "--root", directory, *options, crate], check=True)


def find(name, directory):
    """The program of a peer: in the directory given, else on the search path."""
    places = [os.path.join(directory, "bin", name), os.path.join(directory, name, "bin", name)]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    return shutil.which(name)


def install(name, directory):
    """The program of a peer, installed if it is missing."""
    program = find(name, directory)
    if program:
        return program
    print(f"installing {name}", flush=True)
    os.makedirs(directory, exist_ok=True)
    if name == "restic":
        apt_install(["restic", "fuse3"])
    elif name == "borg":
        venv = os.path.join(directory, "borg")
        apt_install(BORG_NEEDS)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([os.path.join(venv, "bin", "pip"), "install", "-q", "borgbackup[pyfuse3]==1.4.*"], check=True)
    elif name == "rustic":
        cargo_install(directory, "rustic-rs", ["libfuse3-dev", "libfuse-dev"], "--features", "mount")
    elif name == "bupstash":
        cargo_install(directory, "bupstash", ["libsodium-dev"])
    program = find(name, directory)
    if not program:
        raise RuntimeError(f"{name} is not there after its installation")
    return program
