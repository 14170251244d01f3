"""Where scans come from: files and phantoms."""
