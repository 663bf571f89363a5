"""Keys, key exchange and seals. Nothing here knows of envelopes, sessions or peers."""
