"""One thin command per stage of dvc.yaml."""
