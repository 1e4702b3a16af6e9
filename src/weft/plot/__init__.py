"""Pictures of libraries, runs and results, imported file by file: that of a run loads no torch."""
