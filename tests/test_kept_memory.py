"""What large answers free is there for the next ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.served import ROOT

# Four answers of 400 KB at a time, fifty times; tells how many pages were asked of the kernel.
ANSWERS = """
import resource
from tokenhub_proxy.serve import keep_freed_memory
if KEPT:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(51):
    if turn == 1:
        before = faults()
    held = [b"x" * (400_000 + number) for number in range(4)]
    del held
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_memory_of_large_answers_is_used_again() -> None:
    def faults(kept: bool) -> int:
        code = ANSWERS.replace("KEPT", str(kept))
        return int(
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout
        )

    asked = faults(kept=False)
    if asked < 1000:
        pytest.skip("this C library keeps it by itself")
    assert faults(kept=True) < asked / 10
