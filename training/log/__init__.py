"""The training set: the log of events, archived, checked, cut and held out."""
