"""Recipes: networks of other libraries made into model folders. Each is run from the repository's root."""
