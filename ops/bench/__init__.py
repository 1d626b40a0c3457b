"""Benchmarks of serving, each beside a reference in the same run."""
