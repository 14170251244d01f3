"""The rules of sessions, without I/O: events in, commands out."""
