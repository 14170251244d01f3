"""The commands s2cs, s2uc, s2ds and appctrl."""
