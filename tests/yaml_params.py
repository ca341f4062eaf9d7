"""Parameter files of tests, which are shorter with anchors than the project reads them."""

import json

import yaml

from ldebm.yaml_text import format_yaml

__all__ = ["written_out"]


def written_out(text: str) -> str:
    """YAML with its aliases and merge keys written out, as params.yaml has to be."""
    return format_yaml(json.loads(json.dumps(yaml.safe_load(text))))  # nothing is shared
