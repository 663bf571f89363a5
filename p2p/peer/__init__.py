"""One connection: the only room that holds a session and a stream together."""
