"""What the server and the host service share as programs that listen on this machine: once, and light.

Its modules import nothing of this project but each other and, at import time, the standard library alone: the server
binds its port before it has a web framework.
"""
