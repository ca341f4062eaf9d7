"""A project with this one's stages, files and keys in which a stage takes a blink.

Its model is a Gaussian that is fitted to the numbers of a file, so that everything around the
stages (flows, registry, deployments) is tested on real builds with numbers that mean something:
more data make it better, a wrong parameter worse, broken rows fail validation.
"""

from pathlib import Path

import numpy as np

from tests.pipeline.project_copy import ProjectCopy

PARAMS = """\
run:
  datasets: [numbers]
  experiments: [gauss]
  seeds: [0]
  epochs: null

retrain:
  seeds: [0, 1, 2]

data:
  numbers: {kind: points, source: file, path: numbers.csv}

experiments:
  gauss:
    data: numbers
    description: A Gaussian
    backbone: {arch: mlp, latent: 1, training: {updates: 1}}
    prior: {kind: gaussian, mi_weight: 0.0, training: {updates: 1}}
    evaluate: {samples: 100}
  shifted:
    data: numbers
    description: A Gaussian
    backbone: {arch: mlp, latent: 1, training: {updates: 1}}
    prior: {kind: gaussian, mi_weight: 2.0, training: {updates: 1}}
    evaluate: {samples: 100}
"""
DVC = """\
stages:
  fetch:
    matrix: {data: "${run.datasets}"}
    cmd: python -m stages.tiny fetch --data ${item.data}
    params: ["data.${item.data}"]
    outs: ["data/raw/${item.data}"]
  prepare:
    matrix: {data: "${run.datasets}"}
    cmd: python -m stages.tiny prepare --data ${item.data}
    deps: ["data/raw/${item.data}"]
    params: ["data.${item.data}"]
    outs: ["data/prepared/${item.data}"]
  validate:
    matrix: {data: "${run.datasets}"}
    cmd: python -m stages.tiny validate --data ${item.data}
    deps: ["data/prepared/${item.data}"]
    outs: ["reports/validation/${item.data}/report.json", "reports/validation/${item.data}/docs"]
  pack:
    matrix: {data: "${run.datasets}"}
    cmd: python -m stages.tiny pack --data ${item.data}
    deps: ["data/prepared/${item.data}", "reports/validation/${item.data}/report.json"]
    outs: ["data/packed/${item.data}"]
  bind:
    matrix: {experiment: "${run.experiments}"}
    cmd: python -m stages.tiny bind --experiment ${item.experiment}
    deps: [data/packed]
    params: ["experiments.${item.experiment}.data"]
    outs: ["data/bound/${item.experiment}.json"]
  prior:
    matrix: {experiment: "${run.experiments}", seed: "${run.seeds}"}
    cmd: python -m stages.tiny prior --experiment ${item.experiment} --seed ${item.seed}
    deps: ["data/bound/${item.experiment}.json"]
    params: ["experiments.${item.experiment}.prior"]
    outs:
      - models/${item.experiment}/${item.seed}/prior/config.json
      - models/${item.experiment}/${item.seed}/prior/model.safetensors
      - models/${item.experiment}/${item.seed}/prior/snapshots.safetensors
  evaluate:
    matrix: {experiment: "${run.experiments}", seed: "${run.seeds}"}
    cmd: python -m stages.evaluate --experiment ${item.experiment} --seed ${item.seed}
    deps:
      - data/bound/${item.experiment}.json
      - models/${item.experiment}/${item.seed}/prior/model.safetensors
    params: ["experiments.${item.experiment}.evaluate"]
    outs:
      - reports/${item.experiment}/${item.seed}/details
      - reports/${item.experiment}/${item.seed}/metrics.json
    metrics:
      - reports/${item.experiment}/${item.seed}/summary.json:
          cache: false
  report:
    cmd: python -m stages.tiny report
    deps: [models, reports]
    params: [run]
    outs: [site]

artifacts:
  other:
    path: models/other/0/prior/model.safetensors
    type: model
"""
STAGES = '''\
"""Every stage of the project of numbers."""

import argparse
import hashlib
import json
import math
import pathlib
import random
import shutil
import sys
import time

import yaml

Path = pathlib.Path
options = argparse.ArgumentParser()
for name in ("data", "experiment", "seed"):
    options.add_argument(f"--{name}")


def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, sort_keys=True))


def read(path):
    return json.loads(Path(path).read_text())


def fetch(o):
    config = params["data"][o.data]
    content = Path(config["path"]).read_bytes()
    if config.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        sys.exit("error: wrong sha256")
    target = Path("data/raw", o.data, Path(config["path"]).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def prepare(o):
    rows = {"train": [], "test": []}
    for file in sorted(Path("data/raw", o.data).iterdir()):
        for line in file.read_text().split():
            split, value = line.split(",")
            rows[split].append(float(value))
    write(f"data/prepared/{o.data}/rows.json", rows)


def validate(o):
    rows = read(f"data/prepared/{o.data}/rows.json")
    wrong = sum(not abs(x) < 1000 for x in rows["train"] + rows["test"])
    result = {"success": not wrong, "expectation": "small", "detail": f"{wrong} rows above 1000"}
    report = {"success": not wrong, "results": [result], "checked": 1, "failed": int(bool(wrong))}
    write(f"reports/validation/{o.data}/report.json", report)
    write(f"reports/validation/{o.data}/docs/index.html", report)


def pack(o):
    if not read(f"reports/validation/{o.data}/report.json")["success"]:
        sys.exit(f"error: {o.data}: failed validation")
    for split, values in read(f"data/prepared/{o.data}/rows.json").items():
        write(f"data/packed/{o.data}/{split}.x.json", values)


def bind(o):
    data = params["experiments"][o.experiment]["data"]
    folder = Path("data/packed", data)
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    content = {"experiment": o.experiment, "data": data, "path": str(folder), "files": files}
    write(f"data/bound/{o.experiment}.json", content)


def prior(o):
    """A Gaussian with the moments of a random part of the rows, shifted by a parameter."""
    time.sleep(float(Path("slow").read_text()) if Path("slow").exists() else 0)
    values = read(Path(read(f"data/bound/{o.experiment}.json")["path"], "train.x.json"))
    values = random.Random(int(o.seed)).sample(values, len(values) * 3 // 4)
    mean = sum(values) / len(values)
    spread = (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5
    shift = params["experiments"][o.experiment]["prior"]["mi_weight"]
    folder = f"models/{o.experiment}/{o.seed}/prior"
    write(f"{folder}/model.safetensors", {"mean": mean + shift, "spread": spread})
    write(f"{folder}/snapshots.safetensors", {})
    write(f"{folder}/config.json", {})


def evaluate(o):
    model = read(f"models/{o.experiment}/{o.seed}/prior/model.safetensors")
    values = read(Path(read(f"data/bound/{o.experiment}.json")["path"], "test.x.json"))
    m, s = model["mean"], model["spread"]
    each = [0.5 * ((x - m) / s) ** 2 + math.log(s * (2 * math.pi) ** 0.5) for x in values]
    nll = sum(each) / len(each)
    half = 1.96 * (sum((x - nll) ** 2 for x in each) / len(each) ** 2) ** 0.5
    report = {"nll": nll, "nll_low": nll - half, "nll_high": nll + half, "mean": m, "spread": s}
    write(f"reports/{o.experiment}/{o.seed}/metrics.json", report)
    write(f"reports/{o.experiment}/{o.seed}/summary.json", {"nll": round(nll, 3)})
    write(f"reports/{o.experiment}/{o.seed}/details/rows.json", each)


def report(o):
    lines = [f"{p} {p.read_text()}" for p in sorted(Path("reports").glob("*/*/metrics.json"))]
    Path("site").mkdir(exist_ok=True)
    Path("site/index.html").write_text("\\n".join(lines))


def main(stage, arguments):
    global params
    params = yaml.safe_load(Path("params.yaml").read_text())
    with open("ran.log", "a") as log:
        log.write(" ".join([stage, *arguments]) + "\\n")
    globals()[stage](options.parse_args(arguments))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
'''


class NumbersProject(ProjectCopy):
    """The project in a folder of its own, under git, with its code beside it.

    Args:
        folder: where; made.
        rows: rows of the training split.
        params: text of its params.yaml.
    """

    names = (
        "ldebm", "pipelines", "deploy", ".dvcignore", ".gitignore", "prefect.yaml", "prefect.toml",
    )  # fmt: skip

    def __init__(self, folder: Path, rows: int = 400, params: str = PARAMS) -> None:
        self.rows = rows
        super().__init__(folder, params, self.names)

    def fill(self) -> None:
        """The stages, and the data; no stage loads anything, and a build nothing for them."""
        warm = self.folder / "pipelines/warm.py"
        text = warm.read_text()
        assert "ENOUGH = 5" in text
        warm.write_text(text.replace("ENOUGH = 5", "ENOUGH = 500"))
        (self.folder / "stages").mkdir()
        (self.folder / "stages/__init__.py").touch()
        (self.folder / "stages/tiny.py").write_text(STAGES)
        entry = "import sys\nfrom stages.tiny import main\nmain('evaluate', sys.argv[1:])\n"
        (self.folder / "stages/evaluate.py").write_text(entry)
        (self.folder / "dvc.yaml").write_text(DVC)
        with (self.folder / ".gitignore").open("a") as stream:
            stream.write("ran.log\n/slow\nnumbers.csv\n")
        self.numbers(self.rows)

    def numbers(self, rows: int, seed: int = 0, test: int = 200, mean: float = 3.0) -> None:
        """Writes the data file: the first ``rows`` and ``test`` draws of a Gaussian."""
        draw = np.random.default_rng(seed)
        tests = [f"test,{x:.4f}" for x in draw.normal(mean, 2.0, test)]
        trains = [f"train,{x:.4f}" for x in draw.normal(mean, 2.0, rows)]
        (self.folder / "numbers.csv").write_text("\n".join([*tests, *trains]) + "\n")

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        """Replaces text of a file and commits it."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.commit(f"{old} -> {new}")

    def ran(self) -> list[str]:
        """The stage commands that ran in the workspace, in order."""
        path = self.folder / "ran.log"
        return path.read_text().splitlines() if path.exists() else []

    def tags(self) -> list[str]:
        return self.git("tag", "--list").split()
