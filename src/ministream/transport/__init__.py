"""Flow-controlled delivery of messages between stages: credits, order, exactly once."""
