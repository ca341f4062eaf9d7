"""Prefect flows over the DAG of DVC: they start processes and read files, and never load torch.

Prefect reads its settings when it is imported; here are those that make it work on a machine of its
own: no telemetry (C22), and time for the first start of its local server (C17).
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)
