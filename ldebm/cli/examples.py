"""The examples under the help of every command."""

__all__ = ["epilog"]

EXAMPLES = {
    "new": ["ldebm new reviews --from reviews.csv --text body --label stars"],
    "list": ["ldebm list --here", "ldebm list ptb"],
    "select": ["ldebm select ptb-ldebm --seeds 0,1,2", "ldebm select --status"],
    "config": ["ldebm config prior.sampler.steps"],
    "build": [
        "ldebm build",
        "ldebm build ptb-ldebm --seeds 0,1,2",
        "ldebm build chatter-ldebm -S experiments.chatter-ldebm.prior.levels=4",
    ],
    "sweep": [
        "ldebm sweep experiments.chatter-ldebm.prior.levels=4,6 --seeds 0,1,2",
        "ldebm sweep experiments.chatter-ldebm.prior.levels=4,6 --pool ldebm",
    ],
    "compare": ["ldebm compare chatter-ldebm chatter-svebm-ib", "ldebm compare HEAD~1 workspace"],
    "experiments": ["ldebm experiments"],
    "lineage": ["ldebm lineage verify chatter-ldebm", "ldebm lineage diff chatter-ldebm HEAD~1"],
    "audit": ["ldebm audit prior@chatter-ldebm-0", "ldebm audit 'prior@*'"],
    "changes": ["ldebm changes"],
    "retrain": ["ldebm retrain chatter-ldebm --on-change"],
    "champion": ["ldebm champion chatter-ldebm HEAD"],
    "promote": ["ldebm promote chatter-ldebm HEAD --stage champion"],
    "clean": ["ldebm clean --days 30 --delete"],
    "generate": ["ldebm generate chatter-ldebm -n 5 --label 3"],
    "respond": ["ldebm respond smd-ldebm --context 'where is the nearest gas station?'"],
    "classify": ["ldebm classify chatter-ldebm 'what time is it?'"],
    "interpolate": ["ldebm interpolate chatter-ldebm 'good morning' 'see you tomorrow'"],
    "cluster": ["ldebm cluster chatter-ldebm --top 3"],
    "complete": ["ldebm complete chatter-ldebm 'could you ___ the window?'"],
    "score": ["ldebm score chatter-ldebm --from texts.txt --to scores.parquet"],
    "export-embeddings": ["ldebm export-embeddings chatter-ldebm --from texts.txt --to z.parquet"],
    "serve": ["ldebm serve chatter-ldebm --port 8000"],
    "info": ["ldebm info"],
}


def epilog(name: str) -> str | None:
    r"""What follows the options in the help of a command.

    Example:
        >>> epilog("info")
        '\x08\nExample:\n  ldebm info'
    """
    if name not in EXAMPLES:
        return None
    # The first character has the parser keep these lines as they are.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
