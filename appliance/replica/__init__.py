"""Replica: signed batches in logs, and what every replica that holds the same batches folds them to."""
