"""Stage judge: trains the classifier by which images or texts of a data set are measured.

Reads data/packed/NAME; writes data/judge/NAME/{judge.safetensors, metrics.json}. Images without
labels have none, and texts only where the data set has a section ``text_classifier``: metrics.json
says so.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import open_packed
from ldebm.files import write_json
from stages._entry import arguments, parameters, run


def main() -> None:
    """Trains one classifier."""
    options = arguments(__doc__, "data")
    params = parameters(options)
    packed = open_packed(Path("data/packed") / options.data)
    out = Path("data/judge") / options.data
    config = params.classifier(options.data)
    text = params.dataset(options.data).text_classifier
    if config is None or (text is None and not packed.meta["labels"]):
        none = {"data": options.data, "kind": packed.kind, "classifier": None}
        write_json(out / "metrics.json", none)
        return
    from ldebm.evaluate.classifier_training import build_classifier  # loads torch
    from ldebm.evaluate.image_classifier import ImageClassifier
    from ldebm.evaluate.text_classifier import TextClassifier

    kind = ImageClassifier if text is None else TextClassifier
    metrics = build_classifier(kind, config, packed, out)
    print(f"{options.data}: test accuracy {metrics['classifier']['accuracy']:.4f}")


if __name__ == "__main__":
    run(main)
