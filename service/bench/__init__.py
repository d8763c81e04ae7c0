"""``python -m service bench``: what a clip costs, beside the naive way; and a running server under load."""
