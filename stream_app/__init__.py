"""The worker: reads events, advances users' states, sends lists. Never imports torch or `training`."""
