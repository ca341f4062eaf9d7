"""What each size costs: processor seconds and peak memory, one size at a time around a base case.

    python -m benchmarks.growth [--only rows vocabulary]     # adds to results/growth.json
    python -m benchmarks.growth --corpus 200000 1000000 5000000 [--format csv]

Random sentences (words by Zipf's law) or random images go through the functions that the stages
call: pack, both stages of the training with few updates, and the evaluation. Every case runs in a
process of its own, and so does an empty one, whose peak is what Python and PyTorch take.

With ``--corpus`` so many random sentences (words by Zipf's law, a label of eight) are written to a
file, and the stages fetch, prepare, validate and pack run on it as they do in a build.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.recorded import ROOT, circumstances
from ldebm.config import ExperimentConfig
from ldebm.files import read_json, write_array, write_json, write_parquet
from ldebm.seeding import numpy_generator
from pipelines.library import Library

__all__ = ["CASES", "TEXT", "experiment", "main", "measure_corpus", "write_corpus"]

TEXT = {"rows": 10_000, "vocabulary": 1000, "latent": 24, "levels": 6, "classes": 16}
IMAGES = {"side": 8}
CASES = {  # four times as much
    "rows": 40_000,
    "vocabulary": 4000,
    "levels": 24,
    "classes": 64,
    "latent": 96,
    "side": 32,
}
UPDATES, TEST = 40, 10  # of a training; one row of so many is a test row
WORDS = 12  # of a sentence
STAGES = ("fetch", "prepare", "validate", "pack")
DIFFERENT, KINDS = 50_000, 8  # words and labels of a corpus
LENGTHS = (4, 21)  # words of its sentences
PART = 50_000  # rows of it that are written at a time
IMAGE_ROWS = 600


def experiment(sizes: dict[str, int]) -> ExperimentConfig:
    """The embedded dialogues' or digits' experiment with these sizes and short training."""
    side = sizes.get("side")
    config = Library(ROOT).experiment("digits-hvae" if side else "chatter-ldebm")
    content = config.model_dump(mode="json")
    for stage in ("backbone", "prior"):
        content[stage]["training"] |= {"updates": UPDATES, "epochs": None, "validate_every": None}
    if side:
        layers = [{"dense": 8}, {"conv": [2, side // 4]}, {"conv": [1, side // 2]}]
        content["backbone"]["hvae"]["layers"] = layers
    else:
        content["backbone"]["latent"] = sizes["latent"]
        content["prior"] |= {"levels": sizes["levels"], "classes": sizes["classes"]}
        content["prior"]["sampler"]["level_steps"] = []
    few = {"samples": 200, "rows": 16, "importance": 16, "inner": 16, "completion": None}
    content["evaluate"] |= few | {"reverse_lm": "none", "threads": 1, "classifier": None}
    return ExperimentConfig.model_validate(content)


def _sentences(sizes: dict[str, int], prepared: Path) -> None:
    """Prepared random sentences, one in ``TEST`` of them in each small split."""
    draws, words = numpy_generator(0, "growth"), sizes["vocabulary"] - 4
    weight = 1 / np.arange(1, words + 1)
    for name, count in (("train", sizes["rows"]), *((s, sizes["rows"] // TEST) for s in SMALL)):
        ids = draws.choice(words, (count, WORDS), p=weight / weight.sum())
        ids.reshape(-1)[: min(words, ids.size)] = np.arange(min(words, ids.size))
        texts = [" ".join(f"w{word}" for word in row) for row in ids.tolist()]
        columns = {"id": np.arange(count), "text": texts}
        columns["label.kind"] = [f"k{row[0] % 4}" for row in ids.tolist()]
        write_parquet(prepared / f"{name}.parquet", columns)


SMALL = ("valid", "test")


def _images(side: int, packed: Path) -> None:
    """Packed random grey images."""
    draws = numpy_generator(0, "growth")
    meta: dict[str, Any] = {"kind": "images", "source": "random", "channels": 1, "size": side}
    meta |= {"labels": {"digit": [str(i) for i in range(10)]}, "rows": {}}
    for name, count in (("train", IMAGE_ROWS), *((s, IMAGE_ROWS // TEST) for s in SMALL)):
        pixels = draws.integers(0, 256, (count, 1, side, side), dtype=np.uint8)
        write_array(packed / f"{name}.x.npy", pixels)
        write_array(packed / f"{name}.id.npy", np.arange(count))
        write_array(packed / f"{name}.labels.npy", (np.arange(count) % 10).astype(np.int16)[None])
        meta["rows"][name] = count
    write_json(packed / "meta.json", meta)


def run_case(sizes: dict[str, int]) -> dict[str, Any]:
    """Processor seconds of each part in the current folder, and the peaks so far, in MB."""
    from ldebm.api import load
    from ldebm.config.data import DataConfig
    from ldebm.data.packed import open_packed
    from ldebm.data.packing import pack
    from ldebm.training.first_stage import build_backbone_stage
    from ldebm.training.labelling import cluster_stage
    from ldebm.training.second_stage import prior_stage

    config, packed, models = experiment(sizes), Path("packed"), Path("models")
    costs: dict[str, Any] = {"empty_mb": _peak()}
    if "side" in sizes:
        _images(sizes["side"], packed)
    else:
        _sentences(sizes, Path("prepared"))

    def packing() -> None:
        of: dict[str, Any] = {
            "kind": "sentences",
            "source": "file",
            "labels": ["kind"],
            "tokenizer": "word",
        }
        of |= {"vocab_size": sizes["vocabulary"], "max_len": 2 * WORDS, "path": "none.txt"}
        pack(DataConfig.model_validate(of), "prepared", packed)

    def evaluation() -> None:
        load(models / "prior/model.safetensors").evaluate(data(), config.evaluate)

    def data() -> Any:
        return open_packed(packed)

    parts: dict[str, Callable[[], None]] = {
        "backbone": lambda: build_backbone_stage(config, data(), 0, models / "backbone"),
        "cluster": lambda: cluster_stage(
            config, data(), 0, models / "backbone", models / "latents.parquet"
        ),
        "prior": lambda: prior_stage(config, data(), 0, models, "growth"),
        "evaluate": evaluation,
    }
    for name, work in (parts if "side" in sizes else {"pack": packing} | parts).items():
        before = time.process_time()
        work()
        costs |= {name: round(time.process_time() - before, 3), f"{name}_mb": _peak()}
    return costs


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """:func:`run_case` in a process and a folder of its own.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        command = [sys.executable, "-m", "benchmarks.growth", "--case", json.dumps(sizes)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["LDEBM_NO_REUSE"] = "1"
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{sizes}: exit code {done.returncode}: {done.stderr[-3000:]}")
        return dict(read_json(Path(folder) / "found.json"))


def _said(rows: int) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and labels, a part at a time."""
    draws = numpy_generator(0, "corpora")
    weight = np.cumsum(1 / np.arange(1, DIFFERENT + 1))
    words = np.array([f"{'aeiou'[i % 5]}{i:x}" for i in range(DIFFERENT)], dtype=object)
    for start in range(0, rows, PART):
        lengths = draws.integers(*LENGTHS, min(PART, rows - start))
        ids = np.searchsorted(weight, draws.random(lengths.sum()) * weight[-1])
        ends = np.cumsum(lengths)
        spoken = words[np.minimum(ids, DIFFERENT - 1)].tolist()
        bounds = zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        texts = [" ".join(spoken[first:last]) for first, last in bounds]
        yield texts, [f"k{ids[end - 1] % KINDS}" for end in ends.tolist()]


def _csv(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write("text,kind\n")
        for texts, labels in _said(rows):
            pairs = zip(texts, labels, strict=True)
            stream.writelines(f"{text},{label}\n" for text, label in pairs)


def _jsonl(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for texts, labels in _said(rows):
            pairs = zip(texts, labels, strict=True)
            stream.writelines(f'{{"text": "{text}", "kind": "{label}"}}\n' for text, label in pairs)


def _txt(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for texts, _ in _said(rows):
            stream.writelines(f"{text}\n" for text in texts)


def _parquet(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("text", pa.string()), ("kind", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for texts, labels in _said(rows):
            writer.write_table(pa.table({"text": texts, "kind": labels}, schema))


FORMATS = {"csv": _csv, "jsonl": _jsonl, "txt": _txt, "parquet": _parquet}


def write_corpus(path: Path, rows: int) -> None:
    """A corpus of so many rows in the format that the name of the file tells."""
    FORMATS[path.suffix[1:]](path, rows)


def _project(folder: Path, corpus: Path) -> None:
    """What the data stages read of a project, with this corpus as its only data set."""
    labels = [] if corpus.suffix == ".txt" else ["kind"]
    of = {"kind": "sentences", "source": "file", "path": str(corpus), "labels": labels}
    content = {
        "run": {"datasets": ["corpus"], "experiments": [], "seeds": [0], "epochs": None},
        "data": {"corpus": of},
        "experiments": {},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())


def _run_stage(folder: Path, name: str) -> dict[str, float]:
    """Seconds of the clock, processor seconds, and the peak of memory in MB, of one stage.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{name}", "--data", "corpus"]
    began = time.perf_counter()
    with (folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name}: exit code {child.returncode}: {said}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": used.ru_maxrss // 1024,
    }


def measure_corpus(rows: int, form: str) -> dict[str, dict[str, float]]:
    """What each of :data:`STAGES` takes, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="corpora-") as name:
        folder = Path(name)
        corpus = folder / f"corpus.{form}"
        write_corpus(corpus, rows)
        _project(folder, corpus)
        return {stage: _run_stage(folder, stage) for stage in STAGES}


def main() -> int:
    """Measures and records, a case at a time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--corpus", nargs="+", type=int, default=[], metavar="ROWS")
    parser.add_argument("--format", choices=sorted(FORMATS), default="csv")
    parser.add_argument("--out", type=Path, default=ROOT / "results/growth.json")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        write_json("found.json", run_case(options.case))
        return 0
    found = read_json(options.out) if options.out.is_file() else {}
    rows, corpora = found.get("rows", []), found.get("corpora", [])
    for count in options.corpus:
        stages = measure_corpus(count, options.format)
        corpora.append({"rows": count, "format": options.format, "stages": stages})
        corpora[-1] |= circumstances()
        for stage, costs in stages.items():
            print(f"{count} rows of {options.format}: {stage}: {costs}", flush=True)
        write_json(options.out, {"rows": rows, "updates": UPDATES, "corpora": corpora})
    if options.corpus:
        return 0
    for name in options.only:
        base = IMAGES if name == "side" else TEXT
        for value in (base[name], CASES[name]):
            sizes = base | {name: value}
            if any(row["sizes"] == sizes for row in rows):
                continue
            measured = {"sizes": sizes, **measure(sizes), **circumstances()}
            rows.append(measured)
            print(f"{name} {value}: {measured}", flush=True)
            write_json(options.out, {"rows": rows, "updates": UPDATES, "corpora": corpora})
    return 0


if __name__ == "__main__":
    sys.exit(main())
