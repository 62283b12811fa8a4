"""What both servers share, once. Imports nothing of this project and, at import time, the standard library alone."""
