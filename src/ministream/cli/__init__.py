"""The commands of ministream."""
