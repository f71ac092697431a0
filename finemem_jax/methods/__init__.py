"""The loop of an episode (`config.method.name`): one file per method, which exports

    play(env, episode, asked, ask, *, group=0, sample=0, write=None) -> Game

a coroutine of turns. It yields a `Turn` whenever the policy must act, is sent the `Completion`, and returns a function
that waits for the answers and gives the `Rollout`. It holds no clock, no randomness and no device. write: a writer of
operations in the policy's place, for which there is no prompt and no turn is yielded.

and, so that a policy can be warmed up for it (imitation/demonstrations.py),

    demonstrate(env, episode, asked, write) -> speak           what an expert says in a turn: speak(turn) -> str

    examples(mark) -> texts                                    what its own turns say, with a mark for what differs

write: what an expert writes in a turn about a chunk, in the tools of the environment's memory.

`OWN_TURNS = True`: how many turns there are is the policy's choice, so that a turn's running number says nothing, and
no credit rule may compare turns by it.

A method that writes into fast weights yields a `Learn` for it, is sent a `Written`, and exports WRITES_FAST = True;
`check(cfg)`, where a method has it, raises UserError for a config that it cannot be played with.
"""

EXPORTS = ("play()",)
