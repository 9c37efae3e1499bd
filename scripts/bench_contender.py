"""The proxy as contenders of a benchmark that starts servers from such a table.

The driver puts its own values for @PORT@, @UP@ (the upstream's port), @DIR@ (a folder for this run)
and @KEY@ (the client's key). `tokenhub` is what scripts/compile makes of this checkout, `tokenhub-source` the
checkout as it lies; where nothing can be compiled both are the latter.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """\
listen: 127.0.0.1:@PORT@
upstreams: {up: {dialect: openai, base_url: "http://127.0.0.1:@UP@/v1"}}
models:
@CHAT@
  bench-embed: {targets: [{upstream: up}], price: {input: 0.01}}
accounts: {main: {balance: prepaid}}
keys:
  - name: bench
    key: sk-th-bench-key-0123456789
    account: main
    rate: {requests_per_minute: 1000000000, tokens_per_minute: 1000000000, concurrent: 100000}
log: {format: json}
"""
CHAT = "  NAME: {targets: [{upstream: up}], price: {input: 0.01, output: 0.01}, max_output_tokens: 1000}"
MODELS = ("fast", "burst", "paced-50-200", "paced-50-60", "paced-20-200")
# What a credit needs the ledger for, so it is booked before the server owns it.
COMMAND = (
    f"export PYTHONPATH=@PACKAGE@; proxy='{sys.executable} -m tokenhub_proxy'; "
    "$proxy accounts credit main 1000000 --config @DIR@/config.yaml >/dev/null && "
    "exec $proxy serve --config @DIR@/config.yaml"
)
# What is compiled is for the Python of .venv; another one would take the source.
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
COMPILED = subprocess.run([str(ROOT / "scripts/compile")], check=False).returncode == 0 and any(
    (ROOT / "build/compiled/tokenhub_proxy").glob(f"*{SUFFIX}")
)
# By name: the folder that the package is in, and what it is.
FORMS = {
    "tokenhub": (ROOT / "build/compiled", "compiled") if COMPILED else (ROOT, "not compiled"),
    "tokenhub-source": (ROOT, "not compiled"),
}
CONTENDERS = {
    name: {
        "argv": ["sh", "-c", COMMAND.replace("@PACKAGE@", str(package))],
        "files": {
            "config.yaml": CONFIG.replace("@CHAT@", "\n".join(CHAT.replace("NAME", m) for m in MODELS))
        },
        "headers": ["Authorization: Bearer sk-th-bench-key-0123456789"],
        "needs": [],
        "note": f"one process, {form}; durable holds and settlements, key, limits, metrics and log on",
    }
    for name, (package, form) in FORMS.items()
}
