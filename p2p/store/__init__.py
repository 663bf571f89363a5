"""Where logs and identities are kept: blocking code, called on the two lanes of `p2p.windows.Blocking`."""
