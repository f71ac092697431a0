"""What a turn says (`config.prompt.name`): one file per prompt, which exports

    messages(chunk, items, *, max_operations, question="") -> (system, user)   the texts of the two turns
    DESCRIBES_TOOLS                                               whether tools and calls are described beside them

and, where it is otherwise than by default,

    SHOWS_IDS = False                                 it leaves the ids of items out: no operation can name one
    answer_messages(question, notes, hint) -> (system, user)   an answering turn's, where the policy answers
    read_answer(text) -> str                          the answer in what it said there; by default all of it
    write_answer(answer) -> str                       the text that `read_answer` reads so; by default the answer
    extract_messages(context, question) -> (system, user)   of a turn that says what fast weights shall learn

items: those in view, oldest first. question: what the policy may know of what will be asked, "" where it may not.
 What is shared comes first, for the sake of prefix reuse: the system turn is the
same in every prompt, the chunk in all samples of a group at step t, the memory only while they have not diverged.

The description is the codec's; `env/prompts.py` puts it behind the system text. A prompt without one leaves the tools
to a chat template that lists them, if it teaches no other calls than the codec's.
"""

EXPORTS = ("messages()", "DESCRIBES_TOOLS")
