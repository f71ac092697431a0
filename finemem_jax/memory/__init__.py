"""What is remembered, and what an operation does to it (`config.memory.name`): one file per memory, which exports

    SPECS                                the operations, as the policy sees them
    create(cfg, count_tokens) -> Memory  an empty one

and, where it has kinds of items that are always to be seen as a whole,

    PINNED                               these kinds
    pinned_tokens(cfg) -> int            the most tokens that they can have together
"""

EXPORTS = ("SPECS", "create()")
