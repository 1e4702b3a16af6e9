"""How many adapters a merge carries."""
