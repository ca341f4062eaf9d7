"""Writing a data set and an experiment for the files of a user (``ldebm new``)."""
