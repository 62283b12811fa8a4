"""Files of a request as pages of text and pictures, read in a process of its own with limits."""

from sidecar.text.files.child import FileError, read
from sidecar.text.files.pages import FileRead, Page, Wanted

__all__ = ["FileError", "FileRead", "Page", "Wanted", "read"]
