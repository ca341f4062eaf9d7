"""First-stage models, one file for each architecture."""
