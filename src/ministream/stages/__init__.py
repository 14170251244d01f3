"""The stages of the pipeline, each a process of its own."""
