"""Stage judge: trains the classifier by which images or texts of a data set are measured.

Reads data/packed/NAME; writes data/judge/NAME/{judge.safetensors, metrics.json}. Images without
labels have no judge, and texts only where the data set has a section ``classifier``: metrics.json
says so.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import open_packed
from ldebm.files import write_json
from stages._entry import arguments, parameters, run


def main() -> None:
    """Trains one judge."""
    options = arguments(__doc__, "data")
    params = parameters(options)
    config = params.judge_of(options.data)
    packed = open_packed(Path("data/packed") / options.data)
    out = Path("data/judge") / options.data
    text = params.dataset(options.data).classifier
    if text is not None:
        from ldebm.evaluate.text_judge_training import build_text_judge

        metrics = build_text_judge(text, packed, out)
        print(f"{options.data}: test accuracy {metrics['judge']['accuracy']:.4f}")
        return
    if packed.kind != "images" or not packed.meta["labels"]:
        write_json(out / "metrics.json", {"data": options.data, "kind": packed.kind, "judge": None})
        return
    from ldebm.evaluate.judge_training import build_judge  # loads torch

    metrics = build_judge(config, packed, out)
    print(f"{options.data}: test accuracy {metrics['judge']['accuracy']:.4f}")


if __name__ == "__main__":
    run(main)
