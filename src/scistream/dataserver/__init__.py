"""What forwards a session's bytes: one contract, several implementations."""
