"""Pictures of libraries, runs and results; each is imported where it is drawn, as few need a network."""
