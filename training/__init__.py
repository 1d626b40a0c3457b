"""The batch job: the log of interactions becomes a model, the model becomes an artefact, the workers pick it up.

Shape letters used throughout: B sequences (lanes) of a batch, L steps of the longest sequence, T tokens of a packed
batch (the sum of the lengths), D model width, H complex units of a block, S floats of a state, N items, U users,
E events, P golden probes.
"""
