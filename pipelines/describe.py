"""Asks DVC for its DAG and prints it as JSON; ``pipelines.dag`` runs this file as a process.

The templates of dvc.yaml are resolved, targets expanded, stages ordered and compared with the
workspace by DVC itself, in a process of its own because a ``Repo`` belongs to one thread.
With ``--set`` it writes parameters instead, with ``--grid`` it lists the points of a sweep: both
with the grammar and the code of ``dvc exp run -S``. With ``--places`` it says where DVC keeps data,
with ``--push`` it gives stages to the DVC remote.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any


def describe(targets: list[str]) -> dict[str, Any]:
    """Stages in the order of ``dvc repro``, with what DVC knows of each.

    Args:
        targets: stages or outputs; none: all of dvc.yaml.
    """
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    _read_once()
    repo = Repo(_wait_for_lock=True)
    with repo.lock:
        graph = get_active_graph(repo.index.graph)
        wanted = [stage for target in targets for stage in _named(repo, target)]
        everything = [stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"]
        planned = plan_repro(graph, wanted if targets else everything)
        # What `repo.status` does, which for every target reads dvc.yaml and dvc.lock again.
        changed = {name: what for stage in planned for name, what in stage.status(True).items()}
    stages = []
    for stage in planned:
        params: dict[str, Any] = {}
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                params |= dep.read_params()
        stages.append(
            {
                "name": stage.addressing,
                "cmd": stage.cmd,
                "deps": [d.def_path for d in stage.deps if not isinstance(d, ParamsDependency)],
                "params": params,
                "outs": [out.def_path for out in stage.outs],
                "metrics": [out.def_path for out in stage.outs if out.metric],
                "parents": sorted(parent.addressing for parent in graph.successors(stage)),
                "changes": changed.get(stage.addressing, []),
            }
        )
    return {"stages": stages}


def _read_once() -> None:
    """Lets DVC look parameters up once in this process, not twice for every stage.

    Every file is parsed once, and the same keys, which all seeds of an experiment have, are looked
    for once.
    """
    from dvc.dependency import param

    load, read = param.load_path, param.read_param_file
    contents: dict[str, Any] = {}
    known: dict[tuple[Any, ...], Any] = {}

    def load_once(path: str, fs: Any, **options: Any) -> Any:
        if path not in contents:
            contents[path] = load(path, fs, **options)
        return contents[path]

    def read_once(
        fs: Any, path: str, keys: list[str] | None = None, flatten: bool = False, **options: Any
    ) -> Any:
        asked = (path, tuple(keys or ()), flatten, *options.items())
        if asked not in known:
            known[asked] = read(fs, path, keys, flatten, **options)
        return dict(known[asked])

    param.load_path, param.read_param_file = load_once, read_once


def _named(repo: Any, target: str) -> list[Any]:
    """The stages that a name, or an output, stands for."""
    from dvc.exceptions import OutputNotFoundError
    from dvc.repo.reproduce import collect_stages

    try:
        return [out.stage for out in repo.find_outs_by_path(target)]
    except OutputNotFoundError:
        return list(collect_stages(repo, [target]))


def override(settings: list[str]) -> dict[str, Any]:
    """Writes parameters into their files (params.yaml where none is named)."""
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    files = to_path_overrides(settings)
    for path, values in files.items():
        apply_overrides(path, values)
    return {"files": sorted(files)}


def grid(settings: list[str]) -> dict[str, Any]:
    """Every combination of ``key=a,b,c``, as ``dvc exp run --queue -S`` makes them."""
    from dvc.utils.hydra import get_hydra_sweeps

    return {"points": [point[""] for point in get_hydra_sweeps({"": settings})]}


def places(settings: list[str]) -> dict[str, Any]:
    """The cache folder, the remotes and the default one, as ``dvc remote list`` says them."""
    from dvc.config import Config

    folder = os.path.abspath(".dvc")
    config = Config(folder, validate=False)
    cache = config.get("cache", {}).get("dir") or os.path.join(folder, "cache")
    merged = config.read(None)
    remotes = {name: remote["url"] for name, remote in merged.get("remote", {}).items()}
    return {"cache": cache, "remotes": remotes, "default": merged.get("core", {}).get("remote")}


def push(names: list[str]) -> dict[str, Any]:
    """``dvc push --run-cache`` of stages, and what DVC leaves out of it.

    Outputs with ``cache: false`` are in the run cache, and without them a stage cannot be restored
    from it elsewhere; ``dvc push`` gives the remote the others alone.
    """
    from dvc.repo import Repo

    repo = Repo(_wait_for_lock=True)
    repo.push(targets=names, run_cache=True)
    with repo.lock:
        outs = [out for name in names for stage in _named(repo, name) for out in stage.outs]
        plain = {out.hash_info for out in outs if not out.use_cache and out.hash_info}
        odb = repo.cache.local
        failed = repo.cloud.push({item for item in plain if odb.exists(item.value)}).failed
    if failed:
        raise RuntimeError(f"{len(failed)} files failed to upload")
    return {"pushed": names}


def main() -> None:
    """Answers on stdout; an error is its text on stderr and exit code 1."""
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    words = sys.argv[1:]
    try:
        actions = {"--set": override, "--grid": grid, "--places": places, "--push": push}
        action = actions.get(words[0] if words else "")
        content = action(words[1:]) if action else describe(words)
    except Exception as error:  # whatever DVC or a user's dvc.yaml comes up with
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        print(" ".join(f"{error or type(error).__name__}{cause}".split()), file=sys.stderr)
        sys.exit(1)
    print(json.dumps(content))


if __name__ == "__main__":
    main()
