"""What an evaluation says beyond accuracy (`config.eval.measures`): one file each, which exports

    record(rollout, has_model) -> dict          what it needs of one rollout: plain JSON, kept while the rest is played
    metrics(records, cfg) -> dict[str, float]   its columns, from the records of all episodes, in their order
    IN_TRAINING    whether the evaluations of a training run say it too, or `finemem evaluate` alone
    COLUMNS        columns that are printed, with their formats: {"memory_tokens": ".1f"}
    TABLE          title of the table that prints them, which is left out while they are all 0; "" = beside accuracy

and, where it says something of every question, as a column of questions-NAME.jsonl,

    questions(rollout) -> list[dict]            one per final question, in their order

or, where a judge is to be asked about what was written,

    requests(rollout, cfg) -> list[JudgeRequest]    then record() is also given `verdicts`, one each, and `cfg`

has_model: a model wrote, so that its turns cost something. A column that two measures have is the later one's.
"""

EXPORTS = ("record()", "metrics()", "IN_TRAINING", "COLUMNS", "TABLE")
