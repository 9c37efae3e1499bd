"""In an empty Debian without a compiler every way to install it serves, under systemd and as an image too."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import debian
from tests.nginx import free_port
from tests.packed import does_the_main_job, speaks_to_the_sdk, started
from tests.served import ROOT, Served

pytestmark = pytest.mark.long

BUILD_S = 600.0
BOOT_S = 180.0
# To the first answer, of the best of some starts; on a quiet machine that is about the time that it takes.
START_CPU_MAX_S = 1.0
STARTS = 5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commit in every form, and the pinned parts as wheels, fetched by this machine."""
    debian.empty_root()
    folder = tmp_path_factory.mktemp("built")
    for script in ("build", "binary"):
        debian.run([str(ROOT / "scripts" / script), str(folder)])
    for lock in ("release", "compile"):
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
        locked = ["--require-hashes", "--requirement", str(ROOT / f"requirements/{lock}.txt")]
        debian.run([*download, *locked, "--dest", str(folder / "wheels")])
    return folder


@pytest.fixture(scope="module")
def root(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the files of the release, and not a compiler."""
    found = debian.copy(debian.empty_root(), tmp_path_factory.mktemp("debian") / "root")
    for name in ("tokenhub-proxy.pyz", "tokenhub-proxy"):
        shutil.copy2(built / name, found / "usr/local/bin")
    (found / "usr/local/bin").chmod(0o755)
    assert not list(found.glob("usr/bin/*gcc*"))
    return found


def job(root: Path, name: str) -> Path:
    """An empty folder of the user's in the root."""
    folder = root / name
    folder.mkdir()
    os.chown(folder, debian.USER, debian.USER)
    return folder


def serves(root: Path, path: str) -> None:
    """The program at this path in the root does the main job, and starts fast enough."""
    name = Path(path).name
    inside = debian.inside(root, folder=f"/{name}")
    does_the_main_job([*inside, path], job(root, name), inside)
    times = []
    for number in range(STARTS):
        folder = job(root, f"{name}{number}")
        served, timed = started([*debian.inside(root, folder=f"/{folder.name}"), path], folder)
        assert served.stop() == 0
        times.append(timed)
    best = min(times, key=lambda timed: timed.answered_s)
    print(f"\n{path}: {best}")
    assert best.cpu_s < START_CPU_MAX_S


def test_the_archive_serves(root: Path) -> None:
    serves(root, "/usr/local/bin/tokenhub-proxy.pyz")


def test_the_program_without_python_serves(root: Path) -> None:
    serves(root, "/usr/local/bin/tokenhub-proxy")


@pytest.mark.parametrize("ending", [".whl", ".tar.gz"])
def test_the_wheel_and_the_source_archive_install_and_serve(built: Path, root: Path, ending: str) -> None:
    (package,) = built.glob(f"*{ending}")
    place = f"/venv{len(ending)}"
    shutil.copytree(built / "wheels", root / "wheels", dirs_exist_ok=True)
    shutil.copy2(package, root)
    shutil.copy2(ROOT / "requirements/release.txt", root)
    only_wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def inside(*words: str) -> None:
        debian.run(debian.inside(root, *words, user=0, environ=only_wheels))

    inside("python3", "-m", "venv", place)
    pip = (f"{place}/bin/pip", "install", "--quiet", "--root-user-action", "ignore")
    inside(*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", "/release.txt")
    inside(*pip, "--no-deps", f"/{package.name}")
    inside(f"{place}/bin/pip", "check")
    (root / "usr/local/bin" / f"tokenhub-proxy-{place[1:]}").symlink_to(f"{place}/bin/tokenhub-proxy")
    serves(root, f"/usr/local/bin/tokenhub-proxy-{place[1:]}")


# --- the image, without a builder of images


@dataclass
class Image:
    """What a Dockerfile has made so far."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = ""
    settings: dict[str, list[str]] = field(default_factory=dict)


def replayed(text: str, base: Path, work: Path, **building: str) -> Image:
    """Do what the Dockerfile says, one instruction after the other, on copies of a base that has Python."""
    stages: dict[str, Image] = {}
    image = Image(base)
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines():
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "FROM":
            image = Image(debian.copy(base, work / f"stage{len(stages)}"))
            stages[rest.partition(" AS ")[2]] = image
        elif word == "ENV":
            image.environ |= {
                name: value.replace("$PATH", debian.PATH)
                for name, value in (part.split("=", 1) for part in shlex.split(rest))
            }
        elif word == "WORKDIR":
            image.folder = rest
            (image.root / rest[1:]).mkdir(exist_ok=True)
        elif word == "COPY":
            copied(image, stages, rest.split())
        elif word == "RUN":
            environ = {**image.environ, **building}
            in_root = debian.inside(image.root, user=0, folder=image.folder, environ=environ)
            debian.run([*in_root, "sh", "-c", rest])
        elif word == "USER":
            image.user = rest
        elif word == "HEALTHCHECK":
            image.settings[word] = json.loads(rest.partition(" CMD ")[2])
        elif word in ("ENTRYPOINT", "CMD"):
            image.settings[word] = json.loads(rest)
        else:
            assert word in ("", "ARG", "VOLUME", "EXPOSE", "STOPSIGNAL"), line
    return image


def copied(image: Image, stages: dict[str, Image], words: list[str]) -> None:
    sources, to = words[:-1], image.root / os.path.join(image.folder, words[-1])[1:]
    origin = ROOT
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    for source in sources:
        found = origin / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(
                found,
                to,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__") if origin == ROOT else None,
            )
        else:
            to.mkdir(exist_ok=True)
            shutil.copy2(found, to)


def contained(image: Image, data: Path, *words: str) -> list[str]:
    """As the compose file has it run: the root read-only, a volume, no capability, and it is process 1."""
    name = next(
        line.split(":")[0]
        for line in (image.root / "etc/passwd").read_text().splitlines()
        if line.split(":")[2] == image.user
    )
    return [
        *(
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            "--kill-signal=SIGTERM",
        ),
        *(f"--directory={image.root}", "--read-only", f"--bind={data}:/data", "--tmpfs=/tmp"),
        *(f"--user={name}", "--drop-capability=all", "--no-new-privileges=yes", "--chdir=/data"),
        *(f"--setenv={key}={value}" for key, value in image.environ.items()),
        *words,
    ]


def test_the_image_is_built_and_runs_read_only_as_nobody_in_particular(
    built: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed here (Debian: systemd-container)")
    work = tmp_path_factory.mktemp("image")
    base = debian.copy(debian.empty_root(), work / "base")
    shutil.copytree(built / "wheels", base / "wheels")
    # Its headers come with Python in the official image; the compiler does not.
    headers = "apt-get update && apt-get install --yes --no-install-recommends python3-dev"
    debian.run(debian.inside(base, "sh", "-c", headers, user=0))
    assert not list(base.glob("usr/bin/*gcc*"))
    from_wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    image = replayed((ROOT / "Dockerfile").read_text(), base, work, **from_wheels)
    size = sum(path.stat().st_size for path in (image.root / "venv").rglob("*") if path.is_file())
    print(f"\n/venv: {size / 2**20:.0f} MiB")
    assert not list(image.root.glob("usr/bin/*gcc*")), "it stays in the stage that builds"
    assert (image.root / "data").stat().st_uid == int(image.user) != 0
    (image.root / "nonexistent").mkdir()  # systemd-nspawn makes a home where there is none
    data = work / "volume"
    data.mkdir(mode=0o700)
    os.chown(data, int(image.user), int(image.user))

    port = free_port()
    program = image.settings["ENTRYPOINT"]
    assert debian.run(contained(image, data, *program, "--version")).strip().endswith(", compiled")
    assert image.settings["CMD"] == ["serve", "--listen", "0.0.0.0:8900"]
    served = Served(work, "--listen", f"127.0.0.1:{port}", command=contained(image, data, *program))
    try:
        speaks_to_the_sdk(served.base_url, served.secret)
        status = Path(f"/proc/{child_of(served.process.pid)}/status").read_text()
        assert re.search(rf"^Uid:\t{image.user}\t", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        probe = [word.replace("8900", str(port)) for word in image.settings["HEALTHCHECK"]]
        assert probe != image.settings["HEALTHCHECK"]
        debian.run(contained(image, data, *probe))
    finally:
        code = served.stop()
    log = served.log.read_text()
    assert "drain_end cut=0 unsettled=0" in log, "SIGTERM is a drain"
    assert code == 0, log
    assert {path.name for path in data.iterdir()} >= {"tokenhub.db"}
    assert debian.run(contained(image, data, *program, "ledger", "verify")).strip() == "The books add up."


def child_of(pid: int) -> int:
    """The process that systemd-nspawn has started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


# --- systemd itself, process 1 of a machine that has no network but its own

CONFIG = """
listen: 127.0.0.1:1
ledger: sqlite:////var/lib/tokenhub/tokenhub.db
upstreams: {demo: {dialect: demo}}
models:
  demo: {targets: [{upstream: demo}], price: free}
keys: [{name: desk, key: env:DESK_KEY}]
"""
KEY = "sk-th-deskdeskdeskdeskdesk"
IMPATIENT = "[Service]\nWatchdogSec=2\nRestartSec=3\n"
UNIT = """
[Service]
Type=oneshot
ExecStart=/src/try
[Install]
WantedBy=multi-user.target
"""
# Each command's output is a file of its own in /src/told. A config that is a pipe hangs the loop: opening
# it waits for somebody who writes.
TRY = """#!/bin/bash
cd /src
tell() { local name=$1; shift; "$@" >told/$name 2>&1; echo "exit $?" >>told/$name; }
state() { systemctl show --property ActiveState,StatusText,NRestarts,Result tokenhub-proxy; }
until_it() { for _ in {1..600}; do [[ $(state) == *$1* ]] && break; sleep 0.05; done; }
call() {
    python3 - <<END
import json, urllib.request
body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
head = {"Authorization": "Bearer KEY", "Content-Type": "application/json"}
asked = urllib.request.Request("http://127.0.0.1:8900/v1/chat/completions", body, head)
print(urllib.request.urlopen(asked, timeout=60).read().decode())
END
}
tell install bash -ec 'BLOCK'
tell status systemctl status --no-pager tokenhub-proxy
tell confined cat /proc/$(systemctl show --value --property MainPID tokenhub-proxy)/status
tell unpacked ls /var/cache/tokenhub
tell call call
tell health tokenhub-proxy health http://127.0.0.1:8900
tell reload systemctl reload tokenhub-proxy
systemctl restart tokenhub-proxy & call >told/during 2>&1; wait
tell restarted state
mv /etc/tokenhub/config.yaml kept; mkfifo /etc/tokenhub/config.yaml
until_it Result=watchdog
mv --force kept /etc/tokenhub/config.yaml
until_it NRestarts=1; until_it ActiveState=active
tell again state
tell call_again call
tell stop systemctl stop tokenhub-proxy.socket tokenhub-proxy.service
tell stopped state
tell verify tokenhub-proxy ledger verify --ledger /var/lib/tokenhub/tokenhub.db
tell journal journalctl --unit tokenhub-proxy --no-pager --output cat
systemctl --no-block poweroff
"""


def test_systemd_starts_confines_reloads_and_restarts_it_as_the_page_says(
    built: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed here (Debian: systemd-container)")
    root = debian.copy(debian.empty_root(), tmp_path_factory.mktemp("machine") / "root")
    (source := root / "src").mkdir()
    (source / "told").mkdir()
    (source / "dist").mkdir()
    shutil.copy2(built / "tokenhub-proxy.pyz", source / "dist")
    shutil.copytree(ROOT / "deploy", source / "deploy")
    (source / "config.yaml").write_text(CONFIG)
    (root / "etc/tokenhub").mkdir()
    (root / "etc/tokenhub/secrets").write_text(f"DESK_KEY={KEY}\n")
    (root / "etc/tokenhub/secrets").chmod(0o600)
    hurried = root / "etc/systemd/system/tokenhub-proxy.service.d/impatient.conf"
    hurried.parent.mkdir()
    hurried.write_text(IMPATIENT)
    (root / "etc/systemd/system/try.service").write_text(UNIT)
    page = (ROOT / "docs/deploy.md").read_text()
    (block,) = [text for text in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "systemctl" in text]
    assert "'" not in block
    (source / "try").write_text(TRY.replace("BLOCK", block).replace("KEY", KEY))
    (source / "try").chmod(0o755)
    debian.run(["chroot", str(root), "systemctl", "enable", "try.service"])

    boot = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
    debian.run([*boot, "--private-network", f"--directory={root}"], BOOT_S)
    told = {path.name: path.read_text() for path in (source / "told").iterdir()}

    assert re.search(r"secret +sk-th-", told["install"]), told
    assert told["install"].endswith("exit 0\n")
    assert 'Status: "Serving http://127.0.0.1:8900/v1, 0 in flight"' in told["status"], told["journal"]
    for line in ("CapBnd:\t0+", "NoNewPrivs:\t1", "Seccomp:\t2", r"Uid:\t6\d{4}\t.*"):
        assert re.search(rf"^{line}$", told["confined"], re.MULTILINE), line
    assert "tokenhub-proxy_" in told["unpacked"], "in the folder that systemd made for it"
    for name in ("call", "during", "call_again"):
        assert "You said: Hello!" in told[name], (name, told[name])
    for name in ("call", "health", "reload", "call_again", "stop", "verify"):
        assert told[name].endswith("exit 0\n"), told[name]
    assert "INFO tokenhub_proxy.serve reloaded" in told["journal"]
    assert "Result=success" in told["restarted"]
    assert "NRestarts=0" in told["restarted"]
    # The hung loop was ended, said where it hung, and served again.
    assert "Watchdog timeout" in told["journal"]
    assert re.search(r'File ".*/tokenhub_proxy/serve.py", line \d+ in _reload', told["journal"])
    assert "NRestarts=1" in told["again"]
    assert "ActiveState=inactive" in told["stopped"]
    assert "Result=success" in told["stopped"]
    assert "The books add up." in told["verify"]
