"""Prefect flows over the DAG of DVC: they start processes and read files, and never load torch."""
