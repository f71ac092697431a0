"""How operations are written and found in a policy's text (`config.prompt.codec`): one file per format, which exports

    find(text, specs, *, is_cut=False) -> Iterator[Call]   every call in any text, in order; never raises, linear time
    write(operations, specs=()) -> str                     the text that `find` reads as `operations`
    instructions(specs) -> str                             what a prompt says about the tools and the format
    is_taught(shown) -> bool                               whether a chat template that shows this of the tools teaches
                                                           these calls, or at least no others

and, where it is otherwise than by default,

    unfit(specs) -> str        why operations of these tools cannot be written so, "" where they can
    IS_TEXT = True             the whole text is one operation: there are no others in it, and no prose
    READS_THOUGHTS = True      thoughts are left in what `find` is given

is_cut: the text ended because its budget did. A call that may therefore lack its end is found as an error, never as
half a call. `env/operations.py` takes the thoughts out of the text before, and checks the calls against the tools
behind it; whoever reads and writes goes through it.
Files whose name starts with "_" are shared parts.
"""

EXPORTS = ("find()", "write()", "instructions()", "is_taught()")
