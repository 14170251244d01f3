"""The control server: gRPC in front of the session rules."""
