"""Records evaluated runs in results/ and writes docs/results.md beside the papers' rows.

    python -m stages.results [EXPERIMENT ...]

No stage of the DAG: a run is recorded on purpose, and committed. `report` shows what is recorded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldebm.errors import LdebmError
from ldebm.files import write_text
from pipelines.library import Library
from pipelines.results.likelihoods import likelihood_tables
from pipelines.results.recorded import RESULTS, load_results, record_runs
from pipelines.results.standing import standing, superseded_list
from pipelines.results.tables import (
    ablation_tables,
    chains_table,
    faults_table,
    full_size_table,
    markdown,
    speed_table,
    sweeps_table,
)
from pipelines.results.tradeoff import draw, tradeoff


def main() -> None:
    """Records, then writes the tables."""
    parser = argparse.ArgumentParser(description="Record evaluated runs in results/.")
    parser.add_argument("experiments", nargs="*", help="which; default: all that were evaluated")
    parser.add_argument("--tables", action="store_true", help="only write docs/results.md")
    arguments = parser.parse_args()
    try:
        if not arguments.tables:
            for path in record_runs(experiments=arguments.experiments):
                print(path)
        runs, superseded = standing(load_results(), Library())
        marks = tradeoff(runs)
        if marks:
            write_text(Path("docs", "ptb-tradeoff.svg"), draw(marks))
        sections = [markdown(runs, superseded), speed_table()]
        sections += [likelihood_tables(), ablation_tables(), chains_table(RESULTS / "chains.json")]
        sections += [full_size_table(RESULTS / "full-size.json")]
        sections += [sweeps_table(RESULTS / "sweeps.json"), faults_table(RESULTS / "faults.json")]
        sections.append(superseded_list(superseded))
        write_text(Path("docs", "results.md"), "\n".join(filter(None, sections)))
    except LdebmError as error:
        print(f"stages.results: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
