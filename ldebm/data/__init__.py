"""Sources, preparation, packed files and batches."""
