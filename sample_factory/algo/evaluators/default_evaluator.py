"""Scripts import this module by name; it has no content."""
