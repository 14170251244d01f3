"""Who is asking: authenticators, and the certificates and keys of gateways and sessions."""
