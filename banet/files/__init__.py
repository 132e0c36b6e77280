"""Files: opened safely, written atomically, names and JSON fields validated. Imports nothing but errors and types."""
