"""The letters world: operations on short strings and lists, described in words."""
