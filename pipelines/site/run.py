"""The page of one run: metrics, samples, latent map, energies, chains, figures and curves."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldebm.files import read_json
from pipelines.compare.compare import class_words
from pipelines.curves import Series, read_curve
from pipelines.results.glossary import describe, present_names
from pipelines.results.recorded import TRAINED, flatten
from pipelines.results.tables import HEADLINE
from pipelines.site.card import model_card
from pipelines.site.charts import (
    Chart,
    Spot,
    colour,
    histogram,
    line_chart,
    path_map,
    point_map,
    reach,
)
from pipelines.site.images import image_sections, level_borders, table

__all__ = ["changes", "run_page"]

FIGURES = {  # file -> title and what it shows; other drawings are made here
    "kde": ("Densities", "Densities of data, posterior and prior, of points x and of latents z"),
    "evolution": (
        "Densities during training",
        "The same densities at several updates of the second stage, one row each",
    ),
    "scatter": ("Classes", "Points and latents, coloured by their most likely class"),
}
UNITS = {  # of the curves; "_0" and so on at the end of a name is the level
    **dict.fromkeys(("loss", "reconstruction", "kl", "elbo", "score"), "nats per row"),
    **dict.fromkeys(("contrastive", "mutual_information", "class"), "nats per row"),
    "acceptance": "share of moves",
    "bits_per_dim": "bits per value",
    "energy_size": "largest |energy|",
}
PLANE = ("x₁", "x₂")


def run_page(folder: Path, root: Path) -> dict[str, Any]:
    """What the page shows of one experiment and seed.

    Args:
        folder: ``reports/E/S``.
        root: the project's folder.
    """
    experiment, seed = folder.parts[-2], folder.parts[-1]
    model, details = root / "models" / experiment / seed, folder / "details"
    metrics = flatten(present_names(read_json(folder / "metrics.json")))
    config_file = model / "prior" / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    params = config.get("config", config)
    extra = read_json(details / "details.json") if (details / "details.json").is_file() else {}
    spots: dict[str, list[dict[str, str]]] = {"posterior": [], "prior": []}
    for row in table(details / "latent_map.csv"):
        spots[row["kind"]].append(row)
    column = str(extra.get("latent_map", {}).get("label") or "")
    legend = _legend(spots["posterior"], column)
    samples = _samples(folder)
    record = _record(root, experiment, seed, metrics)
    kept = {key: value for key, value in metrics.items() if value is not None}
    return {
        "name": f"{experiment}, seed {seed}",
        "experiment": experiment,
        "seed": seed,
        "anchor": f"{experiment}-{seed}",
        "data": str(params.get("data", "")),
        "description": str(params.get("description") or ""),
        "headline": [(key, kept[key], describe(key)) for key in HEADLINE if key in kept],
        "metrics": [(key, value, describe(key)) for key, value in sorted(metrics.items())],
        "params": flatten(params),
        "curves": {stage: _curves(model / stage, params) for stage in TRAINED},
        "record": record,
        "card": model_card(model, config, record),
        "legend": legend,
        "purity": _purity(extra.get("clusters", [])),
        "map": _latent_maps(spots, extra.get("latent_map", {})),
        "energies": _energies(table(details / "energies.csv")),
        "information": _information(table(details / "label_information.csv")),
        "transitions": _transitions(extra.get("transitions", []), samples["spots"]),
        "clusters": extra.get("clusters", []),
        "figures": _figures(details),
        "images": image_sections(details, extra),
        **samples,
    }


def _record(root: Path, experiment: str, seed: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The record in ``results/`` of these very metrics; empty without."""
    path = root / "results" / experiment / f"{seed}.json"
    record: dict[str, Any] = read_json(path) if path.is_file() else {}
    return record if flatten(present_names(record.get("metrics", {}))) == metrics else {}


def _purity(clusters: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the test rows whose label is the most common one of their class."""
    known = [item for item in clusters if item["labels"]]
    rows = sum(item["size"] for item in known)
    return sum(item["size"] * item["labels"][0][1] for item in known) / rows if rows else None


def _legend(rows: Sequence[Mapping[str, str]], column: str) -> list[dict[str, Any]]:
    """The classes of the latent map: colour, share of test rows, most common true labels.

    A label that is a number has the name of its column before it.
    """
    mine = [row for row in rows if row["class"]]
    counts = Counter(row["class"] for row in mine)
    legend = []
    for name, size in sorted(counts.items(), key=lambda item: int(item[0])):
        labels = Counter(row["label"] for row in mine if row["class"] == name and row["label"])
        common = [
            (f"{column} {label}" if label.isdecimal() else label, count / size)
            for label, count in labels.most_common(2)
        ]
        legend.append(
            {
                "class": name,
                "colour": colour(name),
                "share": size / len(mine),
                "labels": [(label, share) for label, share in common if share >= 0.1],
            }
        )
    return legend


def _latent_maps(
    rows: Mapping[str, Sequence[Mapping[str, str]]], about: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The maps of posterior means and of prior samples; None without any."""
    if not any(rows.values()):
        return None
    spots = {
        name: [(float(row["x"]), float(row["y"]), row["class"], row["label"]) for row in group]
        for name, group in rows.items()
    }
    axes = reach([*spots["posterior"], *spots["prior"]])
    explained = about.get("explained", [])
    principal = about.get("axes") == "principal"
    names = ("first axis", "second axis") if principal else ("z₁", "z₂")
    return {
        "panels": [
            {"title": title, "chart": point_map(spots[kind], axes, f"Latent map: {title}", names)}
            for kind, title in (
                ("posterior", "posterior means of test rows"),
                ("prior", "prior samples"),
            )
        ],
        "principal": principal,
        "explained": sum(explained[:2]) if explained else None,
        "rows": len(spots["posterior"]),
        "label": about.get("label"),
        "group": about.get("group"),
    }


def _energies(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """One histogram a level."""
    levels: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        values = {key: float(value) for key, value in row.items()}
        levels.setdefault(int(values["t"]), []).append(values)
    return [
        {
            "t": t,
            "chart": histogram(bins, f"Energies of data and of samples at level {t}", "energy"),
        }
        for t, bins in sorted(levels.items())
    ]


def _information(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Charts of p(y|z_t) over t; nothing with a single level."""
    if len(rows) < 2:
        return []
    charts = []
    for key, title, unit in (
        ("information", "information about y that is left in z_t", "nats"),
        ("largest", "mean of the largest p(y|z_t)", "probability"),
    ):
        points = tuple((float(row["t"]), float(row[key])) for row in rows)
        drawn = line_chart([Series(title, "level t", points)], title, unit, zero=True)
        charts.append({"title": title, "chart": drawn})
    return charts


def _transitions(
    chains: Sequence[Sequence[Mapping[str, Any]]], spots: Sequence[Spot]
) -> dict[str, Any] | None:
    """Followed chains: energies as charts, moments as rows, and the way of points in the plane."""
    if not chains:
        return None
    rows = [[{**moment, "sample": _sample(moment["sample"])} for moment in c] for c in chains]
    series = [
        Series(f"chain {number}", "moment", tuple((float(i), m["energy"]) for i, m in enumerate(c)))
        for number, c in enumerate(chains, 1)
    ]
    drawn: Chart | None = None
    if not isinstance(chains[0][0]["sample"], str):
        ways = [
            [(*m["sample"][:2], "", "") for m in (chain[0], *_level_ends(chain))]
            for chain in chains
        ]
        drawn = path_map(ways, spots, "Ways of the chains in the plane of the data", PLANE)
    return {
        "chains": rows,
        "energies": line_chart(
            series, "energy of the chains", "energy", breaks=level_borders(chains[0])
        ),
        "legend": [item.name for item in series],
        "map": drawn,
        "levels": chains[0][0]["t"] + 1,
    }


def _level_ends(chain: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        moment
        for moment, after in zip(chain, [*chain[1:], {"t": None}], strict=True)
        if moment["t"] != after["t"]
    ]


def _sample(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(f"{item:.2f}" for item in value)


def _curves(folder: Path, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Training curves, with validation over them; series numbered by level share a chart."""
    curves: dict[str, dict[str, Series]] = {}
    last = 0.0
    for file, kind in (("curve.csv", "training"), ("validation.csv", "validation")):
        path = folder / file
        for series in read_curve(path) if path.is_file() else []:
            match = re.fullmatch(r"(.+)_(\d+)", series.name)
            title = f"{match[1]} by level" if match else series.name
            name = f"level {match[2]}" if match else kind
            last = max(last, series.points[-1][0])
            if len(series.points) > 1 or series.name in curves:
                curves.setdefault(title, {})[name] = Series(name, series.x_name, series.points)
    marks = changes(folder.name, params, last)
    charts = []
    for name, lines in curves.items():
        title = name.replace("_", " ")
        unit = UNITS.get(name.removesuffix(" by level"), title)
        drawn = line_chart(list(lines.values()), title, unit, marks=marks)
        legend = list(lines) if len(lines) > 1 or "validation" in lines else []
        charts.append({"title": title, "legend": legend, "chart": drawn})
    return charts


def changes(stage: str, params: Mapping[str, Any], last: float) -> dict[float, str]:
    """Updates at which the objective of a stage changes, with what begins there.

    Args:
        stage: backbone or prior.
        params: of the run.
        last: update at which the training ended.
    """
    section = params.get(stage) or {}
    cycles = ((params.get("backbone") or {}).get("kl_cycle") or {}).get("cycles")
    if cycles and stage == "prior":  # which then trains the backbone as well
        return {last * i / cycles: "" if i > 1 else "KL from 0 again" for i in range(1, cycles)}
    at, words = section.get("kl_warmup") or 0, "KL at its full weight"
    if stage == "prior" and section.get("levels", 1) > 1:
        total = (section.get("training") or {}).get("updates") or last
        at, words = round((section.get("score_matching") or 0) * total), "end of score matching"
    return {at: words} if 0 < at < last else {}


def _figures(folder: Path) -> list[dict[str, Any]]:
    """The figures that evaluation drew, with their size in pixels."""
    figures = []
    for name, (title, caption) in FIGURES.items():
        path = folder / f"{name}.png"
        if path.is_file():
            width, height = struct.unpack(">II", path.read_bytes()[16:24])  # the PNG header
            figures.append(
                {
                    "path": path,
                    "file": f"{folder.parts[-3]}-{folder.parts[-2]}-{name}.png",
                    "title": title,
                    "caption": caption,
                    "width": width,
                    "height": height,
                }
            )
    return figures


def _samples(folder: Path) -> dict[str, Any]:
    """Samples of text by class, reconstructions, or a map of points."""
    paths = sorted(folder.rglob("samples.jsonl"))
    lines = paths[0].read_text(encoding="utf-8").splitlines() if paths else []
    rows = [json.loads(line) for line in lines]
    drawn = [row for row in rows if row.get("kind", "sample") == "sample"]
    points = [row["x"] for row in drawn if len(row.get("x") or ()) == 2]
    texts = [row for row in drawn if isinstance(row.get("text"), str)]
    classes: dict[str, str] = {}
    samples = []
    for row in texts:
        name = row.get("class", row.get("label"))
        label = row.get("label")
        shown = "" if name is None else str(name)
        words = class_words(row)
        if label is not None and str(label) != shown:
            words = f"{shown}: {label}"
        if shown:
            classes[shown] = words
        samples.append({"class": shown, "label": words, "text": row["text"]})
    spots = [(float(x), float(y), "", "") for x, y in points]
    return {
        "samples": samples,
        "classes": sorted(classes.items(), key=lambda item: (len(item[0]), item[0])),
        "reconstructions": [row for row in rows if row.get("kind") == "reconstruction"],
        "responses": [row for row in rows if row.get("kind") == "response"],
        "points_chart": point_map(spots, reach(spots), "Samples of the model", PLANE)
        if spots
        else None,
        "spots": spots,
        "points": len(points),
    }
