"""Logs and how they spread: batches, heads, forks, and what is accepted. Pure: bytes and times in, decisions out."""
