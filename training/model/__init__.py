"""LRURec and the arithmetic that it is made of, forward and backward."""
