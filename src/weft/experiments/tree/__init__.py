"""Trees of adapters beside what they compete with."""
