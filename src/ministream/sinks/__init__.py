"""Where results go: HDF5 volumes and pictures."""
