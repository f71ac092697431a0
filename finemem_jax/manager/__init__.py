"""A trained memory manager in somebody else's agent: what it reads, what it keeps, what it recalls."""
