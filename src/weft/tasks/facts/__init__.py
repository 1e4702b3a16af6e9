"""Small documents of invented facts, and questions that only they answer."""
