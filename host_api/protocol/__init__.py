"""The ownership protocol as code, a file a section. Standard library alone."""
