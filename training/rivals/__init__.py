"""What LRURec here is compared with, in quality and in speed."""
