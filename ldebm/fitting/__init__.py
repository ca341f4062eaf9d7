"""Training from Python: :func:`ldebm.fit` and :func:`ldebm.fit_prior`, without a project or DVC."""
