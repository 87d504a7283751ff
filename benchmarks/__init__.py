"""Latency reports, with the accuracy of the same bundle beside them."""
