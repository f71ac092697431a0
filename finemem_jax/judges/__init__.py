"""How an answer is judged by a model (`config.judge.prompt`): one protocol per file, which exports

    conversations(request) -> list[Messages]     what the judge is asked; several where a rubric is graded item by item
    verdict(replies, request) -> Verdict         what it said, one reply per conversation; score None = it did not say
    TASKS      what it can judge (`JudgeRequest.task`): "answer", and the names of other things
    TOKENS     the most that one reply needs, tokens; 0 = config.judge.max_tokens
    FIDELITY   one line for tables: whose protocol it is, and what is different here

Instructions come first, for a server's prefix cache. Texts of the answer are data: they stand last, under a heading.
A reply that names no label, or more than one, is no verdict: the answer is missing, not wrong.
"""

EXPORTS = ("conversations()", "verdict()", "TASKS", "TOKENS", "FIDELITY")
