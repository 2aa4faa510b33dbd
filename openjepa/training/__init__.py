"""Pretraining: the loop, what it watches, and what it keeps."""
