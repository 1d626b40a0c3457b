"""Faults on purpose: a known log, real workers, a seeded schedule of what befalls them, and a check from the topics."""
