"""An empty Debian: a system with Python and systemd, no compiler, and nothing of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.served import ROOT

RELEASE = "bookworm"
PYTHON = (3, 11)  # of that release
PARTS = "python3,python3-venv,systemd-sysv,dbus"
MADE_S = 600.0
USER = 10001
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def empty_root() -> Path:
    """Made once, and kept in build/; skips where it can't be made."""
    kept = ROOT / "build" / f"debian-{RELEASE}"
    if os.getuid() != 0:
        pytest.skip("an empty Debian is made and entered by root")
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"its Python is {PYTHON}, and compiled parts fit one version")
    if kept.exists():
        return kept
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed here (Debian: debootstrap)")
    form = ("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {RELEASE}")
    mirrors = subprocess.run(form, capture_output=True, text=True, check=False).stdout.split()
    if not mirrors:
        pytest.skip(f"this system gets no packages of Debian {RELEASE}")
    making = kept.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.parent.mkdir(exist_ok=True)
    debootstrap = ["debootstrap", "--variant=minbase", f"--include={PARTS}", RELEASE, str(making), mirrors[0]]
    done = subprocess.run(debootstrap, capture_output=True, text=True, timeout=MADE_S, check=False)
    if done.returncode != 0:
        pytest.skip(f"debootstrap could not make it: {done.stdout[-300:]}")
    making.rename(kept)
    return kept


def copy(root: Path, to: Path) -> Path:
    subprocess.run(["cp", "--archive", "--reflink=auto", str(root), str(to)], check=True)
    return to


def inside(
    root: Path,
    *words: str,
    user: int = USER,
    folder: str = "/",
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """The command that runs these words in the root, with nothing of this process's environment."""
    variables = {"PATH": PATH, "HOME": "/nonexistent", **(environ or {})}
    env = ["/usr/bin/env", "--ignore-environment", f"--chdir={folder}"]
    return [
        *("chroot", f"--userspec={user}:{user}", str(root)),
        *env,
        *(f"{name}={value}" for name, value in variables.items()),
        *words,
    ]


def run(command: Sequence[str], timeout_s: float = MADE_S) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
