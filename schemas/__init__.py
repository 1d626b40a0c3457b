"""What two processes must agree on: the bytes on the topics, the artefact, the settings that name them.

Nothing here imports Faust, torch, or another package of the project.
"""
