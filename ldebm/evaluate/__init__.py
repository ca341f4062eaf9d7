"""Metrics, estimators and the report of a trained model."""
