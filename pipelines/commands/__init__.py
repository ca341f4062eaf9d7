"""The commands of ``ldebm`` on a project: its data, selection, comparisons and lineage."""
