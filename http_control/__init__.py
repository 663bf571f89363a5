"""HTTP control for a running node: status, live logs and metrics.

Being built: so far there is the server that any ASGI application can be given to, contained and bounded
(`http_control.server.serve_app`). It sees only p2p's front door.
"""
