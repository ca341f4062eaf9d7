"""Models by kind of data: how rows are read, written, scored and evaluated."""
