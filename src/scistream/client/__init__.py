"""The user client and the application controller, as a library."""
