"""Parameter files of tests, which are shorter with anchors than the project reads them."""

import yaml

from ldebm.yaml_text import format_yaml

__all__ = ["written_out"]


def written_out(text: str) -> str:
    """YAML as params.yaml has to be: aliases written out, without ``presets``, which held them."""
    content = yaml.safe_load(text)
    content.pop("presets", None)
    return format_yaml(content)
