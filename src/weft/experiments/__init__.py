"""Questions about adapters, answered by measuring: a recipe, a measurement and a page each."""
