"""A new project with our wheel: the official SDK, LangChain and pydantic-ai against the fixture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.served import ROOT, environment

INSTALL_S, RUN_S = 600, 180


@pytest.fixture(scope="module")
def project_python() -> str:
    try:
        done = subprocess.run(
            [ROOT / "scripts/frameworks"], capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the frameworks could not be installed within {INSTALL_S} s")
    if done.returncode:
        pytest.skip(f"the frameworks can't be installed here: {done.stderr[-300:]}")
    return done.stdout.strip()


@pytest.mark.long
def test_frameworks_in_a_project_of_their_own(project_python: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "frameworks.py", tmp_path / "test_frameworks.py")
    kept = environment()
    del kept["PYTHONPATH"]
    done = subprocess.run(
        [project_python, "-m", "pytest", "-q", "-W", "error", "test_frameworks.py"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
