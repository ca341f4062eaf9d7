"""``ldebm.fit_prior`` on other models' vectors, against what else there is for a density.

    python -m benchmarks.embeddings [--seeds 3] [--only digits]    # adds to results/embeddings.json

Real data: the first principal coordinates of scikit-learn's handwritten digits, and semantic
vectors (latent semantic analysis) of the drivers' utterances of SMD. Every method sees the same
training rows and chooses on a tenth of them; none is stopped before it has what it needs, and the
trained ones make 1,200 updates at most. Beside the mean log-likelihood of test rows: how well they
are told from other rows, whose coordinates are permuted by column, so that each alone looks
familiar.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ldebm
from ldebm.evaluate.ood import auroc
from ldebm.files import read_json, write_json
from ldebm.fitting.rows import divide

__all__ = ["main"]

TEST, MOST = 0.25, 300  # share of the rows, and how many of them at most
UPDATES = 1200  # of the trained priors, at most
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
WIDTHS = np.geomspace(0.05, 2.0, 16)  # of a kernel, in standard deviations
Density = Callable[[np.ndarray], np.ndarray]


def digits() -> np.ndarray:
    """The first 16 principal coordinates of 1,797 digits."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    return np.asarray(PCA(16, random_state=0).fit_transform(load_digits().data))


def utterances() -> np.ndarray:
    """Semantic vectors, of 24 numbers, of the drivers' utterances of four words or more."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    mirror = Path(os.environ.get("LDEBM_DATA_MIRROR", "../mirror"))
    with gzip.open(mirror / "kvret" / "kvret_train_public.json.gz", "rt") as stream:
        dialogues = json.load(stream)
    turns = [turn for dialogue in dialogues for turn in dialogue["dialogue"]]
    texts = {turn["data"]["utterance"].lower() for turn in turns if turn["turn"] == "driver"}
    kept = sorted(text for text in texts if len(text.split()) >= 4)
    weights = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(kept)
    return np.asarray(TruncatedSVD(24, random_state=0).fit_transform(weights))


def ours(kind: str) -> Callable[[np.ndarray, int], tuple[Density, dict[str, Any]]]:
    """A prior of this project."""

    def fit(train: np.ndarray, seed: int) -> tuple[Density, dict[str, Any]]:
        settings = {"training": {"updates": UPDATES}}
        prior = ldebm.fit_prior(train, kind=kind, seed=seed, progress=False, settings=settings)
        sample = prior.log_prob(train[:2])
        facts = {"name": sample.name, "gap": sample.gap, **prior.fitted.updates}
        return lambda z: prior.log_prob(z, seed=seed).value, facts

    return fit


def mixture(train: np.ndarray, seed: int) -> tuple[Density, dict[str, Any]]:
    """scikit-learn's Gaussian mixture with full covariances, its size chosen on held-out rows."""
    from sklearn.mixture import GaussianMixture

    rows, held_out = divide(len(train), seed)
    tried = []
    for size in COMPONENTS:
        if len(rows) < 5 * size:
            break
        made = GaussianMixture(size, reg_covar=1e-4 * train.var(0).mean(), random_state=seed)
        made.fit(train[rows])
        tried.append((made.score(train[held_out]), size, made))
    best = max(tried, key=lambda item: item[:2])
    return best[2].score_samples, {"components": best[1]}


def kernels(train: np.ndarray, seed: int) -> tuple[Density, dict[str, Any]]:
    """scikit-learn's kernel density of whitened rows, its width chosen on held-out rows."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KernelDensity

    rows, held_out = divide(len(train), seed)
    white = PCA(whiten=True).fit(train[rows])
    jacobian = -0.5 * float(np.log(white.explained_variance_).sum())
    u, other = white.transform(train[rows]), white.transform(train[held_out])
    tried = [(KernelDensity(bandwidth=width).fit(u).score(other), width) for width in WIDTHS]
    width = max(tried)[1]
    made = KernelDensity(bandwidth=width).fit(u)
    return lambda z: made.score_samples(white.transform(z)) + jacobian, {"width": float(width)}


METHODS = {
    "LDEBM": ours("ldebm"),
    "mixture (here)": ours("mixture"),
    "flow (neural splines)": ours("flow"),
    "Gaussian": ours("gaussian"),
    "mixture (scikit-learn)": mixture,
    "kernel density": kernels,
}


def measure(vectors: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """All methods on one division of the rows."""
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(vectors))
    count = min(MOST, round(TEST * len(vectors)))
    test, train = vectors[order[:count]], vectors[order[count:]]
    mixed = np.stack([draws.permutation(column) for column in test.T], 1)
    records = []
    for name, fit in METHODS.items():
        begun = time.process_time()
        density, facts = fit(train, seed)
        fitted = time.process_time() - begun
        log_p = density(test)
        records.append(
            {
                "method": name,
                "seed": seed,
                "log_likelihood": float(log_p.mean()),
                "standard_error": float(log_p.std(ddof=1) / np.sqrt(count)),
                "auroc": auroc(log_p, density(mixed)),
                "cpu_seconds": round(fitted, 1),
                "cpu_seconds_of_test": round(time.process_time() - begun - fitted, 1),
                **facts,
            }
        )
        print(json.dumps(records[-1]), flush=True)
    return records


def summary(vectors: np.ndarray, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Records of a data set, with the means of every method over the seeds."""
    means = {}
    for method in METHODS:
        mine = [row for row in records if row["method"] == method]
        if mine:
            names = ("log_likelihood", "auroc", "cpu_seconds")
            means[method] = {key: float(np.mean([row[key] for row in mine])) for key in names}
            means[method]["seeds"] = len(mine)
    rows, numbers = vectors.shape
    return {"rows": rows, "numbers": numbers, "records": records, "means": means}


DATA = {"digits": digits, "utterances": utterances}


def main() -> None:
    """Measures all methods on both data sets; the records are written after every seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(DATA), default=sorted(DATA))
    parser.add_argument("--out", type=Path, default=Path("results/embeddings.json"))
    options = parser.parse_args()
    found = read_json(options.out) if options.out.is_file() else {}
    for name in options.only:
        vectors, records = DATA[name](), list[dict[str, Any]]()
        for seed in range(options.seeds):
            records += measure(vectors, seed)
            found[name] = summary(vectors, records)
            write_json(options.out, found)
    print(json.dumps({name: part["means"] for name, part in found.items()}, indent=1))


if __name__ == "__main__":
    main()
