"""From a fitted model to the champion: artefact, probes, gate, announcements."""
