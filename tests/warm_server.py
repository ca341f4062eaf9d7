"""The process of :mod:`pipelines.warm_server` for all tests: ``python -I warm_server.py ...``.

SOCKET      where it listens
OWNER       the process it ends with, which need not be the one that happened to start it
PYTHON      the program that gives it commands, which is their ``sys.executable``
"""

import os
import runpy
import select
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

# As a file: commands have a package `pipelines` of their own.
sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
import warm_server

sys.path.pop(0)

PREFECT = (  # what it imports, but not itself: it keeps the settings of its first import
    *("amplitude", "asgi_lifespan", "cachetools", "cloudpickle", "coolname", "griffe", "h2"),
    *("httpx", "humanize", "hydra", "jsonschema", "opentelemetry.trace", "orjson", "pendulum"),
    *("prometheus_client", "pydantic_extra_types.pendulum_dt", "pydantic_settings", "slugify"),
    *("starlette.status", "websockets.asyncio.client", "jinja2", "rich.progress", "typer", "yaml"),
)
DVC = (
    *("configobj", "dulwich.repo", "dvc._debug", "dvc.data_cloud", "dvc.repo.artifacts"),
    *("dvc.repo.datasets", "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params"),
    *("dvc.repo.plots", "dvc.repo.stage", "dvc.rwlock", "dvc.scm", "dvc.utils.strictyaml"),
    *("dvc_data.hashfile.db.local", "dvc_data.hashfile.status", "dvc_render", "flatten_dict"),
    *("fsspec.implementations.memory", "ruamel.yaml.mergevalue", "PIL.Image", "pyarrow.csv"),
)


def run_module(name: str, **options: object) -> object:
    """Runs a module, or the file that its first argument names."""
    if name != "pipelines.script":
        return runpy.run_module(name, **options)
    del sys.argv[0], sys.path[0]  # with -P the working folder is not searched
    return runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    path, owner, sys.executable = sys.argv[1], os.pidfd_open(int(sys.argv[2])), sys.argv[3]
    if os.fork() == 0:
        warm_server.LIBRARIES = (*warm_server.LIBRARIES, *PREFECT, *DVC)
        warm_server.runpy = SimpleNamespace(run_module=run_module)
        warm_server.serve(path, os.getppid())
    else:
        select.select([owner], [], [])
        shutil.rmtree(Path(path).parent, ignore_errors=True)
