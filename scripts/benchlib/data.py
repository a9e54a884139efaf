"""What is backed up: the Linux source, an ext4 image of /usr, random bytes."""

import os
import shutil
import subprocess

from .measure import remove

SOURCE = "linux-source-6.1"
EDIT_EVERY = 100


class Data:
    """Made once in a directory and used again. `small` makes a thousandth part of it, to try the benchmark itself."""

    def __init__(self, directory, small):
        self.directory = os.path.abspath(directory)
        self.small = small
        prefix = "small-" if small else ""
        self.linux = self.path(prefix + "linux")
        self.image = self.path(prefix + "image.ext4")
        self.random = self.path(prefix + "random.bin")
        self.pristine = self.path(prefix + "pristine")

    def path(self, name):
        return os.path.join(self.directory, name)

    def make(self, wanted):
        os.makedirs(self.directory, exist_ok=True)
        for name, maker in (("linux", self.make_linux), ("image", self.make_image), ("random", self.make_random)):
            if name in wanted and not os.path.exists(getattr(self, name)):
                print(f"making {getattr(self, name)}", flush=True)
                maker(getattr(self, name) + ".part")
                os.rename(getattr(self, name) + ".part", getattr(self, name))

    def make_linux(self, part):
        archive = f"/usr/src/{SOURCE}.tar.xz"
        if not os.path.exists(archive):
            apt_install([SOURCE])
        remove(part)
        os.makedirs(part)
        only = [f"{SOURCE}/drivers/net/ethernet", f"{SOURCE}/include"] if self.small else []
        subprocess.run(["tar", "-xJf", archive, "-C", part, "--strip-components=1", *only], check=True)

    def make_image(self, part):
        remove(part)
        size, tree = ("512M", "/usr/share/man") if self.small else ("8G", "/usr")
        # More inodes than the default for this size: /usr is many small files.
        inodes = [] if self.small else ["-N", "1000000"]
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, *inodes, part, size], check=True)

    def make_random(self, part):
        left = (32 << 20) if self.small else (2 << 30)
        with open(part, "wb") as file:
            while left:
                file.write(os.urandom(1 << 20))
                left -= 1 << 20

    def files(self):
        found = []
        for folder, _, names in os.walk(self.linux):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    found.append(os.path.relpath(path, self.linux))
        return sorted(found)

    def edit(self):
        """Appends a line to every hundredth file, once; the originals are kept aside."""
        if os.path.exists(self.pristine):
            return 0
        edited = self.files()[EDIT_EVERY // 2 :: EDIT_EVERY]
        for name in edited:
            path, kept = os.path.join(self.linux, name), os.path.join(self.pristine, name)
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            shutil.copy2(path, kept)
            with open(path, "a") as file:
                file.write(f"\n/* edited: {name} */\n")
        return len(edited)

    def undo_edit(self):
        """Puts the originals back, also after a run that was stopped."""
        if os.path.exists(self.pristine):
            shutil.copytree(self.pristine, self.linux, dirs_exist_ok=True)
            remove(self.pristine)


def apt_install(packages):
    helper = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "install-deps")
    subprocess.run(["bash", "-c", '. "$0"; install_deps "$@"', helper, *packages], check=True)
