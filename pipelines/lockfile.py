"""dvc.lock as text: its entries by stage, merged without changing a byte of what DVC wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["lock_blocks", "merge_lock", "read_outs", "whole"]

HEADER = "schema: '2.0'\nstages:\n"


def lock_blocks(text: str) -> dict[str, str]:
    """The entries of dvc.lock by stage, each as the lines that DVC wrote.

    Example:
        >>> lock_blocks("schema: '2.0'\\nstages:\\n  a:\\n    cmd: x\\n  b@1:\\n    cmd: y\\n")
        {'a': '  a:\\n    cmd: x\\n', 'b@1': '  b@1:\\n    cmd: y\\n'}
    """
    blocks: dict[str, str] = {}
    name = None
    inside = False
    for line in text.splitlines(keepends=True):
        if not line.startswith(" "):
            inside, name = line.startswith("stages:"), None
        elif inside and line[:2] == "  " and line[2] not in " -":
            name = line.strip().removesuffix(":").strip("'\"")
            blocks[name] = line
        elif name is not None:
            blocks[name] += line
    return blocks


def read_outs(block: str) -> dict[str, str]:
    """Hashes of the outputs in a dvc.lock entry, by path.

    Example:
        >>> read_outs("  a:\\n    outs:\\n    - path: x\\n      hash: md5\\n      md5: 12\\n")
        {'x': '12'}
    """
    import yaml

    content = next(iter((yaml.safe_load(block) or {"": {}}).values()))
    return {str(out["path"]): str(out.get("md5")) for out in content.get("outs", [])}


def whole(block: str, outs: Sequence[str]) -> bool:
    """Whether an entry has a hash for every output; DVC's writing may have been cut short."""
    import yaml

    try:
        hashes = read_outs(block)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False
    return set(hashes) == set(outs) and "None" not in hashes.values()


def merge_lock(text: str, blocks: Mapping[str, str], order: Sequence[str]) -> str:
    """dvc.lock with entries replaced, new ones behind, as ``dvc repro`` would have written it.

    DVC appends entries as stages finish, which in parallel is in any order. Here new ones come in
    the order of ``dvc repro``, so that the bytes are those of a serial build.

    Args:
        text: dvc.lock before.
        blocks: entries by stage, as in a dvc.lock.
        order: all stages of the DAG, in the order of ``dvc repro``.

    Example:
        >>> merge_lock("", {"b": "  b:\\n    cmd: y\\n", "a": "  a:\\n    cmd: x\\n"}, ["a", "b"])
        "schema: '2.0'\\nstages:\\n  a:\\n    cmd: x\\n  b:\\n    cmd: y\\n"
    """
    entries = lock_blocks(text)
    entries.update({name: blocks[name] for name in entries if name in blocks})
    entries.update({name: blocks[name] for name in order if name in blocks})
    if not entries:
        return text
    head, mark, rest = text.partition("stages:\n")
    tail = "".join(_after_stages(rest)) if mark else ""
    return (head + mark if mark else HEADER) + "".join(entries.values()) + tail


def _after_stages(text: str) -> Iterator[str]:
    """Lines of dvc.lock behind its stages (``datasets:``)."""
    outside = False
    for line in text.splitlines(keepends=True):
        outside = outside or not line.startswith(" ")
        if outside:
            yield line
