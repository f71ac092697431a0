"""What is remembered, and what an operation does to it (`config.memory.name`): one file per memory, which exports

    SPECS                                the operations, as the policy sees them
    create(cfg, count_tokens) -> Memory  an empty one

and, where it has kinds of items that are always to be seen as a whole,

    PINNED                               these kinds
    pinned_tokens(cfg) -> int            the most tokens that they can have together

and, where its tools are not those of memory/flat.py, so that what writes single notes can write it (imitation/),

    notes(items) -> items                what stands in the items in view, a note each
    from_notes(operations, notes, fits) -> operations   what is written of notes (tools of memory/flat.py, ids of
                                         `notes`) in its own tools; fits(text): whether it may be as long as that
"""

EXPORTS = ("SPECS", "create()")
