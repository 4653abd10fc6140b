"""A conda channel in a folder, whose packages stand in for conda-forge's: this Python, PyPI's packages, empty ones."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import rattler_build

PYTHON = "{}.{}".format(*sys.version_info[:2])
PLATFORM = "linux-64" if os.uname().machine == "x86_64" else "linux-aarch64"


class Channel:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, object]] = {}

    def add(self, name: str, files: Path | None = None, version: str = "99") -> None:
        """A package of the files below a folder; None: an empty one."""
        made = rattler_build.assemble_package(
            name=name, version=version, target_platform=PLATFORM, build_string="0",
            output_dir=self.folder / "channel" / PLATFORM, files_dir=files, compression_level=1,
        )  # fmt: skip
        data = Path(made.path).read_bytes()
        self._known[Path(made.path).name] = {
            "name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": PLATFORM,
            "sha256": hashlib.sha256(data).hexdigest(), "size": len(data),
        }  # fmt: skip

    def add_python(self) -> None:
        """Links to this interpreter, which is that of an environment wherever they are unpacked."""
        real = Path(os.path.realpath(sys.executable))
        files = self.folder / "python"
        (files / "bin").mkdir(parents=True)
        for name in ("python", "python3", f"python{PYTHON}"):
            (files / "bin" / name).symlink_to(real)
        (files / "pyvenv.cfg").write_text(f"home = {real.parent}\ninclude-system-site-packages = false\n")
        self.add("python", files, f"{PYTHON}.99")
        self.add("python-abi3", version=f"{PYTHON}.99")

    def add_from_pypi(self, name: str, packages: Sequence[str]) -> None:
        """One package with all of these and what they depend on."""
        files = self.folder / name
        target = files / "lib" / f"python{PYTHON}" / "site-packages"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run([*pip, "--target", target, *packages], check=True)
        self.add(name, files)

    def write(self) -> str:
        """Lists the packages -> the channel's address."""
        for platform, known in ((PLATFORM, self._known), ("noarch", {})):
            folder = self.folder / "channel" / platform
            folder.mkdir(exist_ok=True)
            listed = {"info": {"subdir": platform}, "packages": {}, "packages.conda": known}
            (folder / "repodata.json").write_text(json.dumps(listed))
        return (self.folder / "channel").as_uri()
