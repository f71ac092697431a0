"""The contestants of an evaluation beside the policy (`config.eval.baselines`): one file each, which exports

    contestant(cfg) -> Contestant   under which settings it plays, and who writes in the policy's place

Files whose name starts with "_" are shared parts.
"""

EXPORTS = ("contestant()",)
