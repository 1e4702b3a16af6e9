"""Every way to use one library of adapters, on the same rows."""
