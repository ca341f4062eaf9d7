"""Flows over the DAG of DVC: they start processes and read files, and never load torch.

Without a server of Prefect's they run in threads of one process; with one, as its flows. Prefect
reads its settings when it is imported; here are those that make it work on one machine: no
telemetry, no temporary server, which could outlive what started it, and no proxy on the way
to this machine itself.
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)
_direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
if _direct != "*":
    _hosts = [*filter(None, _direct.split(",")), "127.0.0.1", "localhost", "::1"]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(_hosts))
